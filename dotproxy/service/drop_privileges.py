"""
When a service that was started as root, or with capabilities, gives privileges up, and as which user it runs.

Decides the user, the moments at which privileges are given up, and the warnings about files that cannot be used then.
Refuses to know the system calls: those are ``privileges``'s.  Only for a process that twistd has started: as a library
dotproxy leaves its process alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path

from twisted.logger import Logger

import dotproxy
from dotproxy.config.model import Config
from dotproxy.config.schema import SETTINGS
from dotproxy.config.system_users import Account, parse_account
from dotproxy.errors import ConfigError
from dotproxy.service.privileges import FILES, forbid_gains, give_up, unusable

#: The interpreter and our modules: workers are started from them, and modules are imported while the service runs.
_PROGRAM = (Path(sys.executable), Path(dotproxy.__file__).parent)

log = Logger("dotproxy")


@dataclass(frozen=True, slots=True)
class _Need:
    """
    A path that is used while the service runs, its mode for ``os.access``, and the warning if it cannot be used.
    """

    path: Path
    mode: int
    complaint: str


def choose_user(account: Account | None, twistd: MutableMapping[str, int | None]) -> None:
    """
    Have twistd change to ``account``, unless twistd's own options name a user, or it does not run as root.
    """
    if account is None or "uid" not in twistd or twistd["uid"] is not None or os.geteuid():
        return
    twistd["uid"] = account.uid
    if twistd["gid"] is None:
        twistd["gid"] = account.gid


class Confinement:
    """
    Gives this process's privileges up while the service starts.

    ``uid`` and ``gid`` are those that twistd changes to, if any.  ``file`` is the configuration file.

    Told by: ``TwistdService``, in this order: ``announce``; ``bound`` when every listener is bound; ``serving`` when
    the reactor runs, before there are threads.
    """

    def __init__(self, config: Config, file: str | None, uid: int | None = None, gid: int | None = None) -> None:
        self._config = config
        self._needs = list(_needs(config, file))
        self._uid, self._gid = uid, gid
        self._kept: frozenset[int] = frozenset()
        self._refused: list[str] = []

    def announce(self, *, has_workers: bool = False) -> None:
        """
        Warn if the service will run as root or not as ``user``, and of each file that its user cannot use.

        :raises ConfigError: if there are to be workers, and that user could not start them.
        """
        if os.geteuid():
            account = self._config.user
            if account is not None and account.uid != os.geteuid():
                log.warn(
                    "user {name}: only root can become another user; serving as user {uid}",
                    name=account.name,
                    uid=os.geteuid(),
                )
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
        Forbid child processes to gain privileges: no further socket has to be bound.
        """
        self._refused = forbid_gains(self._kept)

    def serving(self) -> None:
        """
        Drop all capabilities: nothing after this needs any.
        """
        self._refused += give_up(self._kept)
        if self._config.is_debug:
            log.debug("privileges were given up{but}", but="".join(f"; {one}" for one in self._refused))

    def _announce_root(self) -> None:
        others = self._unusable(None)
        if others:
            self._kept = FILES
        example = next((need.path for need in others), "")
        kept = f", but for access to all files ({example} is another user's)" if others else ""
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
    except ValueError:  # twistd reports an unknown user
        return None
    return account if gid is None else replace(account, gid=gid)


def _needs(config: Config, file: str | None) -> Iterator[_Need]:
    """
    Yield what is used while the service runs: the program (modules are imported late, and workers are restarted), files
    that a reload reads, and directories that files are written to.
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
