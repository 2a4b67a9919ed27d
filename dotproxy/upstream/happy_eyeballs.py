"""
Dialling an upstream that has several addresses (happy eyeballs, RFC 8305).

Decides which address is tried when: the one that worked last first, the next as soon as one fails or is slow.  The
first verified connection wins; the other attempts are cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.errors import UpstreamError
from dotproxy.upstream.timers import cancel

#: RFC 8305 §5 recommends 250 ms between attempts.
STAGGER = 0.25

#: Of several failures the one from furthest along the way says most.
_PHASES = ("resolve", "connect", "tls", "verify")


@implementer(IStreamClientEndpoint)
class RacingEndpoint:
    """
    Several endpoints that lead to the same upstream, as one.
    """

    def __init__(self, clock: IReactorTime, endpoints: Sequence[IStreamClientEndpoint]) -> None:
        self._clock = clock
        self._endpoints = list(endpoints)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for the first connection that stands, or the most telling of all failures.
        """
        return _Race(self._clock, self._endpoints, protocolFactory).result


class _Race:
    """
    One dial.  Owns the attempts under way, and the timer that starts the next; ends with ``result``.
    """

    def __init__(self, clock: IReactorTime, endpoints: list[IStreamClientEndpoint], factory: IProtocolFactory) -> None:
        self.result: Deferred[IProtocol] = Deferred(self._cancelled)
        self._clock = clock
        self._endpoints = endpoints
        self._waiting = list(endpoints)
        self._factory = factory
        self._running: list[Deferred[IProtocol]] = []
        self._failures: list[Failure] = []
        self._timer: IDelayedCall | None = None
        self._is_over = False
        self._start_next()

    def _start_next(self) -> None:
        self._stop_timer()
        if self._is_over or not self._waiting:
            return
        endpoint = self._waiting.pop(0)
        if self._waiting:
            self._timer = self._clock.callLater(STAGGER, self._start_next)
        attempt: Deferred[IProtocol] = endpoint.connect(self._factory)
        self._running.append(attempt)
        attempt.addCallbacks(self._won, self._lost, callbackArgs=(endpoint, attempt), errbackArgs=(attempt,))

    def _won(self, protocol: IProtocol, endpoint: IStreamClientEndpoint, attempt: Deferred[IProtocol]) -> None:
        self._running.remove(attempt)
        self._endpoints.remove(endpoint)
        self._endpoints.insert(0, endpoint)
        self._finish()
        self.result.callback(protocol)

    def _lost(self, failure: Failure, attempt: Deferred[IProtocol]) -> None:
        self._running.remove(attempt)
        if self._is_over:
            return
        self._failures.append(failure)
        if self._waiting:
            self._start_next()
        elif not self._running:
            self._finish()
            self.result.errback(max(self._failures, key=_how_far))

    def _finish(self) -> None:
        self._is_over = True
        self._stop_timer()
        for attempt in self._running[:]:
            attempt.cancel()

    def _stop_timer(self) -> None:
        cancel(self._timer)
        self._timer = None

    def _cancelled(self, result: Deferred[IProtocol]) -> None:
        self._finish()


def _how_far(failure: Failure) -> int:
    error = failure.value
    return _PHASES.index(error.phase) if isinstance(error, UpstreamError) and error.phase in _PHASES else -1
