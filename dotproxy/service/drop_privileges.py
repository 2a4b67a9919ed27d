"""
A service that was started as root, or with capabilities, and what is left of that while it serves.

Decides as which user it serves, when it gives up what, and what is said of files it cannot use then.  The calls are
``privileges``'.  Only for a process that is twistd's: a library leaves its process as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twisted.logger import Logger

import dotproxy
from dotproxy.config.accounts import Account, parse_account
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.errors import ConfigError
from dotproxy.service.privileges import FILES, forbid_gains, give_up, unusable

#: What every worker is started from, and modules are imported from when they are needed.
_PROGRAM = (Path(sys.executable), Path(dotproxy.__file__).parent)

log = Logger("dotproxy")


@dataclass(frozen=True, slots=True)
class _Need:
    """
    A path that is used after the start, how, and what is said if it cannot be.
    """

    path: Path
    mode: int
    complaint: str


def choose_user(account: Account | None, twistd: MutableMapping[str, Any]) -> None:
    """
    Have twistd give root up for ``account``, unless its own options name a user, or it is not root's.
    """
    if account is None or "uid" not in twistd or twistd["uid"] is not None or os.geteuid():
        return
    twistd["uid"] = account.uid
    if twistd["gid"] is None:
        twistd["gid"] = account.gid


class Confinement:
    """
    ``uid`` and ``gid`` are whom twistd gives root up for, if anybody.

    Told by: the service's start: ``announce`` first, ``bound`` when every listener is, ``serving`` when the reactor
    runs, before it has threads.
    """

    def __init__(self, config: Config, file: str | None, uid: int | None = None, gid: int | None = None) -> None:
        self._config = config
        self._needs = list(_needs(config, file))
        self._uid, self._gid = uid, gid
        self._kept: frozenset[int] = frozenset()
        self._refused: list[str] = []

    def announce(self, *, has_workers: bool = False) -> None:
        """
        Say as whom it will serve, if that is not as it should be, and what that user cannot do.

        :raises ConfigError: if it could not start any of the workers it is to have.
        """
        if os.geteuid():
            account = self._config.user
            if account is not None and account.uid != os.geteuid():
                log.warn("user {name}: only root can become another user; serving as user {uid}", **_who(account))
        elif not self._uid:
            self._announce_root()
        elif (account := _account(self._uid, self._gid)) is not None:
            unusable = self._unusable(account)
            if has_workers and (problems := [need.complaint for need in unusable if need.path in _PROGRAM]):
                raise ConfigError([f"user {account.name}: {problem}, and start no worker" for problem in problems])
            for need in unusable:
                log.warn("user {name}: {complaint}", name=account.name, complaint=need.complaint)

    def bound(self) -> None:
        """
        Everything is bound that needs privileges.
        """
        self._refused = forbid_gains(self._kept)

    def serving(self) -> None:
        """
        Nothing that comes needs any.
        """
        self._refused += give_up(self._kept)
        if self._config.is_debug:
            log.debug("privileges were given up{but}", but="".join(f"; {one}" for one in self._refused))

    def _announce_root(self) -> None:
        others = self._unusable(None)
        if others:
            self._kept = FILES
        kept = f", but for access to all files ({others[0].path} is another user's)" if others else ""
        log.warn(
            'serving as root, without capabilities{kept}: user = "NAME", or --user NAME, gives root up once all is'
            " bound",
            kept=kept,
        )

    def _unusable(self, account: Account | None) -> list[_Need]:
        paths = unusable(((need.path, need.mode) for need in self._needs), account)
        return [need for need in self._needs if need.path in paths]


def _account(uid: int, gid: int | None) -> Account | None:
    try:
        account = parse_account(uid)
    except ValueError:  # twistd will say so
        return None
    return account if gid is None else replace(account, gid=gid)


def _who(account: Account) -> dict[str, Any]:
    return {"name": account.name, "uid": os.geteuid()}


def _needs(config: Config, file: str | None) -> Iterator[_Need]:
    """
    Yield what is used after the start: the program itself, since modules are imported when they are needed and workers
    are started anew; files that a reload reads; directories that files are written to.
    """
    for path in _PROGRAM:
        yield _Need(path, os.R_OK | os.X_OK, f"may not use {path}, which is part of the program")
    if file:
        path = Path(file).expanduser()
        yield _Need(path, os.R_OK, f"may not read {path}, so that a reload will fail")
    for setting in SETTINGS:
        value = getattr(config, setting.key)
        if not isinstance(value, Path):
            continue
        if setting.metavar == "PEM":
            yield _Need(
                value, os.R_OK, f"may not read {value} ({setting.key}), so that new contents will not be taken in"
            )
            continue
        where = value.parent
        yield _Need(
            where, os.W_OK | os.X_OK, f"may not write to {where}, so that there will be no {setting.key}; chown it"
        )
        yield _Need(value, os.R_OK | os.W_OK, f"may not use {value} ({setting.key}), which is another user's; chown it")
