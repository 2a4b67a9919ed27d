"""
The dials to one upstream that are under way.

Decides when a dial is slow, so that another upstream is preferred.  How many there are is its caller's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from dotproxy.errors import Unreachable, UpstreamError
from dotproxy.upstream.connection import DotConnection
from dotproxy.upstream.timers import cancel

#: A dial that takes more seconds is slow: queries go to another upstream, if there is one.
SLOW_DIAL = 0.25


class Dialer:
    """
    Owns: the dials under way, and a timer for each.
    Tells: ``connected``, with each connection and the seconds it took; ``failed``, with each error; ``slow``.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        build: Callable[[], DotConnection],
        connected: Callable[[DotConnection, float], None],
        failed: Callable[[UpstreamError], None],
        slow: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._now = now
        self._build = build
        self._on_connected = connected
        self._on_failed = failed
        self._on_slow = slow
        self._under_way: dict[Deferred[IProtocol], IDelayedCall] = {}
        self.is_slow = False

    def __len__(self) -> int:
        return len(self._under_way)

    def dial(self, wanted: int) -> None:
        """
        Dial until so many dials are under way; one that ends at once is not replaced.
        """
        for _ in range(wanted - len(self._under_way)):
            factory = Factory.forProtocol(self._build)
            factory.noisy = False
            dialling: Deferred[IProtocol] = self._endpoint.connect(factory)
            self._under_way[dialling] = self._clock.callLater(SLOW_DIAL, self._note_slow)
            given = (dialling, self._now())
            dialling.addCallbacks(self._connected, self._failed, callbackArgs=given, errbackArgs=(dialling,))

    def cancel_all(self) -> None:
        """
        Cancel all of them; nothing is reported.
        """
        for dialling in tuple(self._under_way):
            self._ended(dialling)
            dialling.cancel()

    def _connected(self, protocol: IProtocol, dialling: Deferred[IProtocol], began: float) -> None:
        self._ended(dialling)
        connection = cast(DotConnection, protocol)  # ``build`` has made it
        if connection.is_open:  # it may have ended at once
            self._on_connected(connection, self._now() - began)

    def _failed(self, failure: Failure, dialling: Deferred[IProtocol]) -> None:
        self._ended(dialling)
        if failure.check(CancelledError):
            return
        error = failure.value
        if not isinstance(error, UpstreamError):
            error = Unreachable("connect", failure.getErrorMessage())
        self._on_failed(error)

    def _ended(self, dialling: Deferred[IProtocol]) -> None:
        cancel(self._under_way.pop(dialling, None))
        self.is_slow = False

    def _note_slow(self) -> None:
        self.is_slow = True
        self._on_slow()
