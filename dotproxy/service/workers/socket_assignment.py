"""
The sockets of a proxy with several workers, and which worker reads which.

Decides who takes over the socket of a worker that does not serve: the worker that has taken over the fewest so far.
Refuses to know how workers are started and told.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from dotproxy.config.model import Config
from dotproxy.downstream.reuseport_bpf import attach_name_hash
from dotproxy.downstream.sockets import Endpoint, bind_all, drop_count
from dotproxy.service.listening import ListeningSockets, endpoints_of
from dotproxy.service.workers.channel import FOR_TLS

#: In place of a worker's name: sockets that every worker reads.
ALL_WORKERS = "*"


class OwnedSocket(NamedTuple):
    """
    A socket, and which worker reads it: its name, ``ALL_WORKERS``, "" if all accept TCP from it, ``FOR_TLS`` if all
    accept DNS over TLS from it.
    """

    owner: str
    bound: socket.socket


class Handover(NamedTuple):
    """
    A command for ``worker`` about the UDP sockets of worker ``name``: ``take_over`` or ``release``.
    """

    worker: str
    command: str
    name: str


class SocketAssignment:
    """
    Owns: every socket, until ``close``; which worker has taken over whose.

    ``names`` are the workers'.  ``sockets`` are those passed by systemd: each worker reads all of them.
    """

    def __init__(self, names: Sequence[str], sockets: ListeningSockets) -> None:
        self._names = names
        # UDP sockets, by the name of the worker that reads them.
        self._datagrams = {ALL_WORKERS: sockets.datagrams} if sockets.datagrams else {}
        self._streams = sockets.streams
        self._tls_streams = sockets.tls_streams
        self._taken_over: dict[str, str] = {}
        self.is_by_name = False

    @property
    def has_plain(self) -> bool:
        """
        Whether there is any socket for plain DNS.
        """
        return bool(self._datagrams or self._streams)

    @property
    def of_one_worker(self) -> ListeningSockets:
        """
        The sockets of one worker, of which each has the same addresses.
        """
        return ListeningSockets(next(iter(self._datagrams.values()), []), self._streams, self._tls_streams)

    @property
    def tls_addresses(self) -> list[Endpoint]:
        """
        The address and port of each listener for DNS over TLS.
        """
        return endpoints_of(self._tls_streams)

    @property
    def drops(self) -> int:
        """
        How many datagrams the kernel has dropped for lack of room.
        """
        return sum(drop_count(bound) for several in self._datagrams.values() for bound in several)

    def bind_missing(self, config: Config) -> None:
        """
        Bind ``listen``, with one UDP socket for each worker and address, and ``listen_tls``, each unless there are
        sockets for it already.  All are bound or none.

        :raises CannotBind: naming every address that cannot be bound.
        """
        plain = [] if self.has_plain else [Endpoint(one.host, one.port) for one in config.listen]
        tls = [] if self._tls_streams else [Endpoint(one.host, one.port) for one in config.listen_tls]
        bound = bind_all(plain, tls, len(self._names))
        self._tls_streams += bound.tls
        if plain:
            self._streams = bound.tcp
            self._datagrams = dict(zip(self._names, bound.udp, strict=True))
            attached = [attach_name_hash(of_address) for of_address in zip(*bound.udp, strict=True)]
            self.is_by_name = all(attached)

    def owned(self) -> list[OwnedSocket]:
        """
        Return every socket, in the order in which they are passed to workers.
        """
        owned = [OwnedSocket(name, bound) for name, several in self._datagrams.items() for bound in several]
        owned += [OwnedSocket(FOR_TLS, bound) for bound in self._tls_streams]
        return owned + [OwnedSocket("", bound) for bound in self._streams]

    def forget(self, worker: str) -> None:
        """
        Note that a worker's process has ended: the next one has taken nothing over.
        """
        self._taken_over = {name: other for name, other in self._taken_over.items() if other != worker}

    def reassign(self, serving: Collection[str]) -> list[Handover]:
        """
        Return the commands after which each socket is read: by its own worker if that serves, else by another.
        """
        commands: list[Handover] = []
        for name in self._datagrams:
            other = self._taken_over.get(name)
            if name in serving or name == ALL_WORKERS:
                if other is not None:
                    commands.append(Handover(other, "release", name))
                    del self._taken_over[name]
            elif other is None and serving:
                counts = Counter(self._taken_over.values())
                chosen = self._taken_over[name] = min(serving, key=lambda one: (counts[one], one))
                commands.append(Handover(chosen, "take_over", name))
        return commands

    def close(self) -> None:
        """
        Close every socket.
        """
        for owned in self.owned():
            owned.bound.close()

    def clear(self) -> None:
        """
        Forget every socket.
        """
        self._datagrams, self._streams, self._tls_streams = {}, [], []
