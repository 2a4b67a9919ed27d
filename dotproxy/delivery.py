"""
Responses on their way to clients.

Decides how responses that are ready together reach their listeners: written, counted, told to the query log, sent.
Refuses to know where they come from; who has them delivered says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dotproxy.answering import Answering
from dotproxy.live import Query, Waiting
from dotproxy.neighbours import Answers, Listener, Origin, QueryLog
from dotproxy.telemetry.counters import Counters, group_of


class Delivery:
    """
    ``query_log`` is told of each response, if there is one; ``now`` and ``elapsed`` are the forwarder's clocks.
    """

    def __init__(
        self, answering: Answering, counters: Counters, now: Callable[[], float], elapsed: Callable[[], float]
    ) -> None:
        self.answering = answering
        self.query_log: QueryLog | None = None
        self._counters = counters
        self._now = now
        self._elapsed = elapsed

    def at_once(self, waiting: Waiting, said: Any, origin: Origin) -> bytes:
        """
        Return what a client gets that did not have to wait.
        """
        octets = self.answering.written(waiting, said)
        if self.query_log is not None:
            self.query_log.note(octets, origin, said)
        return octets

    def joined(self, waiting: Waiting, query: Query) -> None:
        """
        A client waits with others for a query that is in flight.
        """
        query.waiting.append(waiting)
        if self.query_log is not None:
            self.query_log.note_joined(waiting[2], self._now() - query.asked_at)

    def give(
        self,
        query: Query,
        said: Any,
        outgoing: dict[Listener, Answers],
        upstream: str = "",
        origin: Origin = Origin.UPSTREAM,
    ) -> int:
        """
        Add to ``outgoing`` what everybody gets who waits for a query, that an upstream answered unless it has another
        origin; return how many those are.
        """
        everybody, query.waiting = query.waiting, []
        if not everybody:
            return 0
        counts = self._counters.answers
        written, log = self.answering.written, self.query_log
        took = self._now() - query.asked_at
        self._counters.asked.add(took, len(everybody))
        for waiting in everybody:
            listener, client, asked, seen = waiting
            octets = written(waiting, said)
            counts[group_of(listener.kind, seen.qtype, octets[3] & 15)] += 1
            if listener in outgoing:
                outgoing[listener].append((octets, client))
            else:
                outgoing[listener] = [(octets, client)]
            if log is not None:
                log.note_waited(asked, octets, origin, said, upstream, took)
        return len(everybody)

    def send(self, outgoing: dict[Listener, Answers], since: float) -> None:
        """
        Send these; what did not have to wait took the time since then.
        """
        for listener, answers in outgoing.items():
            if self.query_log is not None:
                self.query_log.answered(listener.kind, answers, self._elapsed() - since)
            listener.send_answers(answers)
