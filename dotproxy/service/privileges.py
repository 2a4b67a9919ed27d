"""
The system calls by which a process gives privileges up: capabilities(7), prctl(2).

Decides the calls and their order.  Refuses to know when they are made and as which user the service runs: that is
``drop_privileges``'s.  Linux only: elsewhere every function does nothing.  Nothing here raises: what the kernel or a
system call filter refuses is returned as text, since a service with privileges is better than no service.

Capabilities belong to a thread: call these functions before there is a second one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dotproxy.config.system_users import Account

#: In <linux/capability.h>: the capabilities by which root uses files of other users.
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
FILES = frozenset({DAC_OVERRIDE, DAC_READ_SEARCH})

#: In <linux/prctl.h>.
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

#: In <linux/capability.h>: sets of 64 capabilities, as two halves.
_VERSION_3 = 0x20080522


class CapabilitySets(NamedTuple):
    """
    A thread's capability sets, each a bit field, in the order of ``struct __user_cap_data_struct``.
    """

    effective: int
    permitted: int
    inheritable: int


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def forbid_gains(keep: Iterable[int] = ()) -> list[str]:
    """
    Keep child processes from gaining privileges, or any capability but those in ``keep``; return what was refused.

    Sets ``no_new_privs`` and empties the bounding set.  That needs CAP_SETPCAP, so root calls this before it changes to
    another user.
    """
    if (library := _library()) is None:
        return []
    refused: list[str] = []
    if _prctl(library, _PR_SET_NO_NEW_PRIVS, 1):
        refused.append(f"no_new_privs: {_reason()}")
    kept, failed = set(keep), ""
    for number in range(64):
        state = _prctl(library, _PR_CAPBSET_READ, number)
        if state < 0:  # no such capability: the last one was before
            break
        if state and number not in kept and _prctl(library, _PR_CAPBSET_DROP, number):
            failed = _reason()
    return [*refused, f"the bounding set: {failed}"] if failed else refused


def give_up(keep: Iterable[int] = ()) -> list[str]:
    """
    Drop every capability of this thread but those in ``keep``; return what was refused.
    """
    if (library := _library()) is None:
        return []
    refused: list[str] = []
    if _prctl(library, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL):
        refused.append(f"ambient capabilities: {_reason()}")
    kept = sum(1 << number for number in keep) & _capabilities(library).permitted
    if not _set_capabilities(library, CapabilitySets(kept, kept, 0)):
        refused.append(f"capabilities: {_reason()}")
    return refused


def unusable(needed: Iterable[tuple[Path, int]], account: Account | None) -> list[Path]:
    """
    Return the paths that ``account`` cannot use (None: root without capabilities), each checked for a mode of
    ``os.access``.  Paths that do not exist are left out.  Only root may call this.
    """
    found: list[Path] = []
    with suppress(OSError), _acting_as(account):
        found = [path for path, mode in needed if not os.access(path, mode, effective_ids=True) and _exists(path)]
    return found


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def _acting_as(account: Account | None) -> Iterator[None]:
    """
    Access files as ``account``, or as root without capabilities, within the block.
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
    before = _capabilities(library)
    _set_capabilities(library, before._replace(effective=0))
    try:
        yield
    finally:
        _set_capabilities(library, before)


def _library() -> ctypes.CDLL | None:
    """
    Return the C library; None if this is not Linux, or it has no capset(2).
    """
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "capset") else None


def _prctl(library: ctypes.CDLL, option: int, *arguments: int) -> int:
    rest = [*arguments, 0, 0, 0, 0][:4]
    return int(library.prctl(option, *map(ctypes.c_ulong, rest)))


def _capabilities(library: ctypes.CDLL) -> CapabilitySets:
    header, halves = _Header(_VERSION_3, 0), (_Data * 2)()
    if library.capget(ctypes.byref(header), ctypes.byref(halves)):
        return CapabilitySets(0, 0, 0)
    low, high = halves
    return CapabilitySets(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def _set_capabilities(library: ctypes.CDLL, sets: CapabilitySets) -> bool:
    header = _Header(_VERSION_3, 0)
    halves = (_Data * 2)(_Data(*(one & 0xFFFFFFFF for one in sets)), _Data(*(one >> 32 for one in sets)))
    return not library.capset(ctypes.byref(header), ctypes.byref(halves))


def _reason() -> str:
    return os.strerror(ctypes.get_errno()).lower()
