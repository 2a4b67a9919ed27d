"""
Turns of TCP connections that have queries to hand on.

Decides whose queries are handed on next, and when others are let do their work: connections of different clients take
turns, then those of one client, a batch of queries each.  What that takes between two iterations of the reactor is
bounded, so that UDP is read in the meantime; what is left then waits for the next iteration.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from dotproxy.policy.client_shares import ClientShare

#: Seconds that queries over TCP are handed on for, before the reactor sees to everything else.
BUDGET: Final = 0.003

log = Logger("dotproxy")


class TurnTaker(Protocol):
    """
    A connection; ``is_waiting`` is written by ``RoundRobin``.
    """

    share: ClientShare
    is_waiting: bool

    def take_turn(self) -> bool:
        """
        Hand on a batch of queries; return whether there are more that could be handed on now.
        """

    def abort(self) -> None:
        """
        End the connection now.
        """


class RoundRobin:
    """
    Owns: the connections that wait for a turn, and one call of the reactor's while some do or the time is up.
    Told by: connections (``begin``, ``leave``).

    ``now`` returns seconds.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float], budget: float = BUDGET) -> None:
        self._clock = clock
        self._now = now
        self._budget = budget
        self._spent = 0.0
        self._waiting: OrderedDict[str, OrderedDict[TurnTaker, None]] = OrderedDict()
        self._call: IDelayedCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def begin(self, connection: TurnTaker, begun: float) -> None:
        """
        A connection that does not wait has queries to hand on, since ``begun``, which is now: hand them on at once, as
        long as there is time.
        """
        if self._call is not None:  # the time is up, or others were here first
            self._wait(connection)
            return
        more = connection.take_turn()
        spent = self._spent + self._now() - begun
        while more and spent < self._budget:
            more = connection.take_turn()
            spent = self._spent + self._now() - begun
        if more:
            self._wait(connection)
        self._spent = spent
        if spent >= self._budget and self._call is None:
            self._call = self._clock.callLater(0, self._continue)

    def leave(self, connection: TurnTaker) -> None:
        """
        A connection waits no more.
        """
        if connection.is_waiting:
            connection.is_waiting = False
            queue = self._waiting[connection.share.prefix]
            del queue[connection]
            if not queue:
                del self._waiting[connection.share.prefix]

    def _wait(self, connection: TurnTaker) -> None:
        connection.is_waiting = True
        self._waiting.setdefault(connection.share.prefix, OrderedDict())[connection] = None

    def _continue(self) -> None:
        """
        Let those that wait take turns.
        """
        begun = self._now()
        # Whoever comes while this goes on waits behind those that are here.
        while self._waiting:
            self._next()
            if self._now() - begun >= self._budget:
                break
        self._spent = self._now() - begun
        is_over = not self._waiting and self._spent < self._budget
        self._call = None if is_over else self._clock.callLater(0, self._continue)

    def _next(self) -> None:
        """
        Let the first connection of the first client take its turn.
        """
        prefix, queue = self._waiting.popitem(last=False)
        connection, _ = queue.popitem(last=False)
        connection.is_waiting = False
        if queue:
            self._waiting[prefix] = queue
        try:
            if connection.take_turn():
                self._wait(connection)
        except Exception:
            log.failure("while handing on queries of a TCP client")
            connection.abort()
