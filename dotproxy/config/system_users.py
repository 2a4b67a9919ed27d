"""
The user and group that a service runs as.

Decides the syntax (``USER`` or ``USER:GROUP``, by name or by number) and whether both exist.
"""

from __future__ import annotations

from dataclasses import dataclass

try:
    import grp
    import pwd
except ImportError:  # not a POSIX system: there is no user database
    grp = pwd = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Account:
    """
    A user of this machine with its user ID, and the group ID to run with.
    """

    name: str
    uid: int
    gid: int
    group: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.group}" if self.group else self.name


def parse_account(value: object) -> Account:
    """
    Return the account for ``USER``, with the user's own group, or for ``USER:GROUP``; both may be numbers.

    The user must be in the user database, because its supplementary groups are read from there.

    :raises ValueError: if the user or the group does not exist, or is root.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not the name of a user")
    user, colon, group = str(value).strip().partition(":")
    if pwd is None:
        raise ValueError(f"{user!r}: this system has no user database")
    try:
        entry = pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise ValueError(f"{user!r} is no user of this machine") from None
    gid = _group(group) if colon else entry.pw_gid
    if not entry.pw_uid or not gid:
        raise ValueError(f"{str(value)!r} is root; name a user and a group without privileges, as nobody")
    return Account(entry.pw_name, entry.pw_uid, gid, group)


def _group(text: str) -> int:
    try:
        return int(text) if text.isascii() and text.isdigit() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"{text!r} is no group of this machine") from None
