"""
Privileges of this process, and how they are given up (capabilities(7), prctl(2)).

Decides the calls and their order.  Linux only: elsewhere nothing happens.  Nothing here raises: what the kernel or a
filter of system calls refuses is returned in words, since a service with privileges is better than none.

The kernel keeps capabilities by thread: call these before there is a second one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dotproxy.config.accounts import Account

#: In <linux/capability.h>: what lets root use files that are another user's.
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
FILES = frozenset({DAC_OVERRIDE, DAC_READ_SEARCH})

#: In <linux/prctl.h>.
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

#: In <linux/capability.h>: sets of 64 capabilities, as two halves.
_VERSION_3 = 0x20080522
#: The sets of a process in the order of struct __user_cap_data_struct.
_Sets = tuple[int, int, int]


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def forbid_gains(keep: Iterable[int] = ()) -> list[str]:
    """
    See to it that no program this process starts has more than it, nor any capability but those in ``keep``.

    Sets ``no_new_privs`` and empties the bounding set, which takes CAP_SETPCAP: root calls this before it gives way
    to a user.  Return what was refused.
    """
    if (library := _library()) is None:
        return []
    refused: list[str] = []
    if _prctl(library, _PR_SET_NO_NEW_PRIVS, 1):
        refused.append(f"no_new_privs: {_reason()}")
    kept, failed = set(keep), ""
    for number in range(64):
        state = _prctl(library, _PR_CAPBSET_READ, number)
        if state < 0:  # there are no more
            break
        if state and number not in kept and _prctl(library, _PR_CAPBSET_DROP, number):
            failed = _reason()
    return [*refused, f"the bounding set: {failed}"] if failed else refused


def give_up(keep: Iterable[int] = ()) -> list[str]:
    """
    Have no capability but those in ``keep`` that are there, in no set; return what was refused.
    """
    if (library := _library()) is None:
        return []
    refused: list[str] = []
    if _prctl(library, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL):
        refused.append(f"ambient capabilities: {_reason()}")
    kept = sum(1 << number for number in keep) & _sets(library)[1]
    if not _set(library, (kept, kept, 0)):
        refused.append(f"capabilities: {_reason()}")
    return refused


def unusable(needed: Iterable[tuple[Path, int]], account: Account | None) -> list[Path]:
    """
    Return which paths cannot be used, each with a mode of ``os.access``, as ``account``; without one, as root without
    capabilities.  What is not there is not judged.  Only for root.
    """
    found: list[Path] = []
    with suppress(OSError), _as(account):
        found = [path for path, mode in needed if not os.access(path, mode, effective_ids=True) and _is_there(path)]
    return found


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def _as(account: Account | None) -> Iterator[None]:
    """
    See the file system as somebody with less does.
    """
    if account is not None:
        groups, gid = os.getgroups(), os.getegid()
        os.setgroups(os.getgrouplist(account.name, account.gid))
        os.setegid(account.gid)
        os.seteuid(account.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(gid)
            os.setgroups(groups)
        return
    library = _library()
    if library is None:
        yield
        return
    before = _sets(library)
    _set(library, (0, before[1], before[2]))
    try:
        yield
    finally:
        _set(library, before)


def _library() -> Any:
    """
    The C library, if this is Linux and it has what is needed.
    """
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "capset") else None


def _prctl(library: Any, what: int, *arguments: int) -> int:
    rest = [*arguments, 0, 0, 0, 0][:4]
    return int(library.prctl(what, *map(ctypes.c_ulong, rest)))


def _sets(library: Any) -> _Sets:
    header, halves = _Header(_VERSION_3, 0), (_Data * 2)()
    if library.capget(ctypes.byref(header), ctypes.byref(halves)):
        return 0, 0, 0
    low, high = halves
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def _set(library: Any, sets: _Sets) -> bool:
    header = _Header(_VERSION_3, 0)
    halves = (_Data * 2)(_Data(*(one & 0xFFFFFFFF for one in sets)), _Data(*(one >> 32 for one in sets)))
    return not library.capset(ctypes.byref(header), ctypes.byref(halves))


def _reason() -> str:
    return os.strerror(ctypes.get_errno()).lower()
