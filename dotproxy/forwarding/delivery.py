"""
Responses on their way to clients.

Decides how responses that are ready together reach their listeners: built, counted, logged, sent.
Refuses to know where they come from; the caller says so.
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

#: The most log lines about defects, per second: one defect may affect many queries.
_LOGGED = 1.0

_DEFECT = ExtendedError(EDE_OTHER, "internal error")

log = Logger("dotproxy")


class Delivery:
    """
    Owns: responses that are built and not sent yet.

    ``query_log``, if there is one, gets each response; ``shares`` are those that queries in flight are charged to;
    ``monotonic`` and ``boottime`` are the forwarder's clocks, in seconds.
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
        Build the response to a client that does not wait for an upstream; return it in wire form.
        """
        octets = self.response_builder.build(request, response)
        if self.query_log is not None:
            self.query_log.note(octets, origin, response)
        return octets

    def local(self, listener: Listener, response: bytes) -> bytes:
        """
        Count a local response to a query that the filters did not pass, and return it.
        """
        self._counters.answers[answer_index(listener.kind, 0, response[3] & 15)] += 1
        return self.noted(response)

    def noted(self, response: bytes) -> bytes:
        """
        Note a local response in the query log, and return it; b"" is none.
        """
        if response and self.query_log is not None:
            self.query_log.note(response, Origin.LOCAL)
        return response

    def joined(self, request: ClientRequest, query: Query, now: float) -> None:
        """
        Add a client to those that wait for a query in flight.
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
        Build the response to each client that waits for a query, to be sent by ``send_given``.  ``upstream`` is the
        label of the upstream it is from, "" without one.
        """
        requests, query.waiting = query.waiting, []
        if not requests:
            return
        counts, ready = self._counters.answers, self._ready
        build, log, shares = self.response_builder.build, self.query_log, self._shares
        took = now - query.started_at
        self._counters.upstream_seconds.add(took, len(requests))
        for request in requests:
            listener, client, asked, info, account = request
            try:
                octets = build(request, response)
            except Exception:
                self.log_defect(asked)
                octets = build(request, _DEFECT)
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
        Log the current exception, which a query caused, by its type and place: its text may have the query name.
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
        Send what ``give`` has built; ``since`` is a reading of ``boottime`` before that.
        """
        ready, self._ready = self._ready, {}
        for listener, answers in ready.items():
            self.send(listener, answers, since)

    def send(self, listener: Listener, answers: Answers, since: float) -> None:
        """
        Send responses to a listener's clients; those that did not wait for an upstream took the time since ``since``.
        """
        if self.query_log is not None:
            self.query_log.log_sent(listener.kind, answers, self._boottime() - since)
        try:
            listener.send_answers(answers)
        except Exception:  # other listeners get their responses, and queries are still dispatched
            self.log_defect(answers[0][0])
