"""
Responses on their way to clients.

Decides how responses that are ready together reach their listeners: written, counted, told to the query log, sent.
Refuses to know where they come from; who has them delivered says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb

from twisted.logger import Logger

from dotproxy.forwarding.inflight import ClientRequest, Query
from dotproxy.forwarding.interfaces import Answers, Listener, QueryLog, Response
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.rate_limit import RateLimit
from dotproxy.telemetry.counters import Counters, Origin, answer_index
from dotproxy.wire.edns import EDE_OTHER, ExtendedError

#: A defect is logged so often, in times a second: it may be met again and again.
_LOGGED = 1.0

_DEFECT = ExtendedError(EDE_OTHER, "internal error")

log = Logger("dotproxy")


class Delivery:
    """
    Owns: responses that are ready and not sent yet.

    ``query_log`` is told of each response, if there is one; ``shares`` has the places in flight that clients give back;
    ``now`` and ``elapsed`` are the forwarder's clocks.
    """

    def __init__(
        self,
        response_builder: ResponseBuilder,
        shares: ClientShares,
        counters: Counters,
        monotonic: Callable[[], float],
        boottime: Callable[[], float],
    ) -> None:
        self.response_builder = response_builder
        self._shares = shares
        self.query_log: QueryLog | None = None
        self._counters = counters
        self._monotonic = monotonic
        self._boottime = boottime
        self._ready: dict[Listener, Answers] = {}
        self._logged = RateLimit(_LOGGED, monotonic())

    def at_once(self, request: ClientRequest, response: Response, origin: Origin) -> bytes:
        """
        Return what a client gets that did not have to wait.
        """
        octets = self.response_builder.build(request, response)
        if self.query_log is not None:
            self.query_log.note(octets, origin, response)
        return octets

    def local(self, listener: Listener, response: bytes) -> bytes:
        """
        Count a response of our own to a query that was not looked at further, and return it.
        """
        self._counters.answers[answer_index(listener.kind, 0, response[3] & 15)] += 1
        return self.noted(response)

    def noted(self, response: bytes) -> bytes:
        """
        Tell the query log of a response of our own, and return it; b"" is none.
        """
        if response and self.query_log is not None:
            self.query_log.note(response, Origin.LOCAL)
        return response

    def joined(self, request: ClientRequest, query: Query, now: float) -> None:
        """
        Have a client wait with others for a query in flight.
        """
        query.waiting.append(request)
        if self.query_log is not None:
            self.query_log.note_joined(request.octets, now - query.started_at)

    def give(
        self,
        query: Query,
        response: Response,
        now: float,
        upstream: str = "",
        origin: Origin = Origin.UPSTREAM,
    ) -> None:
        """
        Build the response to each client that waits for a query, to be sent by ``send_given``.  It is an upstream's,
        unless ``origin`` says otherwise.
        """
        everybody, query.waiting = query.waiting, []
        if not everybody:
            return
        counts, ready = self._counters.answers, self._ready
        written, log, shares = self.response_builder.build, self.query_log, self._shares
        took = now - query.started_at
        self._counters.upstream_seconds.add(took, len(everybody))
        for request in everybody:
            listener, client, asked, info, account = request
            try:
                octets = written(request, response)
            except Exception:
                self.log_defect(asked)
                octets = written(request, _DEFECT)
            shares.release(account, len(asked))
            counts[answer_index(listener.kind, info.qtype, octets[3] & 15)] += 1
            if listener in ready:
                ready[listener].append((octets, client))
            else:
                ready[listener] = [(octets, client)]
            if log is not None:
                log.note_waited(asked, octets, origin, response, upstream, took)

    def log_defect(self, query: bytes) -> None:
        """
        Log the exception that is being handled, which kept a query from being processed, by its type and place: its
        text may have the name that was asked for.
        """
        error = sys.exc_info()[1]
        if error is None or not self._logged.available(self._monotonic()):
            return
        self._logged.take()
        places = extract_tb(error.__traceback__)
        log.error(
            "a defect in dotproxy: no response to a query of {size} octets ({error} in {places})",
            size=len(query),
            error=type(error).__name__,
            places=", ".join(f"{Path(place.filename).name}:{place.lineno}" for place in reversed(places)),
        )

    def send_given(self, since: float) -> None:
        """
        Send what ``give`` has built, at ``since`` or later.
        """
        ready, self._ready = self._ready, {}
        for listener, answers in ready.items():
            self.send(listener, answers, since)

    def send(self, listener: Listener, answers: Answers, since: float) -> None:
        """
        Send these; those that did not have to wait took the time from ``since`` to now.
        """
        if self.query_log is not None:
            self.query_log.log_sent(listener.kind, answers, self._boottime() - since)
        try:
            listener.send_answers(answers)
        except Exception:  # other listeners, and queries still to be dispatched, must not suffer from it
            self.log_defect(answers[0][0])
