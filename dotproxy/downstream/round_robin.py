"""
The order in which TCP connections hand their queries to the forwarder.

Decides which connection is next: client prefixes take turns, then the connections of one prefix, a batch of queries
each.  Between two iterations of the reactor this takes at most ``BUDGET`` seconds, so that UDP is read in the meantime;
connections with more queries wait for the next iteration.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from dotproxy.downstream.interfaces import ClientConnection

#: Seconds that queries over TCP are dispatched for between two iterations of the reactor.
BUDGET: Final = 0.003

log = Logger("dotproxy")


class RoundRobin:
    """
    Owns: the connections that wait for a turn, and one delayed call while any do or the budget is spent.
    Told by: connections (``schedule``, ``remove``).

    ``now`` returns seconds on a monotonic clock.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float], budget: float = BUDGET) -> None:
        self._clock = clock
        self._now = now
        self._budget = budget
        self._spent = 0.0
        self._waiting: OrderedDict[str, OrderedDict[ClientConnection, None]] = OrderedDict()
        self._call: IDelayedCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def schedule(self, connection: ClientConnection, now: float) -> None:
        """
        Let a connection that does not wait dispatch its queries, at once while the budget lasts, in turn after that.
        """
        if self._call is not None:  # the budget is spent, or others wait already
            self._enqueue(connection)
            return
        has_more = connection.take_turn()
        spent = self._spent + self._now() - now
        while has_more and spent < self._budget:
            has_more = connection.take_turn()
            spent = self._spent + self._now() - now
        if has_more:
            self._enqueue(connection)
        self._spent = spent
        if spent >= self._budget and self._call is None:
            self._call = self._clock.callLater(0, self._run_iteration)

    def remove(self, connection: ClientConnection) -> None:
        """
        Forget a connection, if it waits.
        """
        if connection.is_waiting:
            connection.is_waiting = False
            queue = self._waiting[connection.share.prefix]
            del queue[connection]
            if not queue:
                del self._waiting[connection.share.prefix]

    def _enqueue(self, connection: ClientConnection) -> None:
        connection.is_waiting = True
        self._waiting.setdefault(connection.share.prefix, OrderedDict())[connection] = None

    def _run_iteration(self) -> None:
        """
        Let waiting connections take turns until the budget is spent.
        """
        started_at = self._now()
        # Connections that are scheduled meanwhile queue behind those that wait already.
        while self._waiting:
            self._serve_next()
            if self._now() - started_at >= self._budget:
                break
        self._spent = self._now() - started_at
        is_done = not self._waiting and self._spent < self._budget
        self._call = None if is_done else self._clock.callLater(0, self._run_iteration)

    def _serve_next(self) -> None:
        """
        Let the first connection of the first prefix take its turn.
        """
        prefix, queue = self._waiting.popitem(last=False)
        connection, _ = queue.popitem(last=False)
        connection.is_waiting = False
        if queue:
            self._waiting[prefix] = queue
        try:
            if connection.take_turn():
                self._enqueue(connection)
        except Exception:
            log.failure("defect while dispatching queries of a TCP client; its connection is closed")
            connection.abort()
