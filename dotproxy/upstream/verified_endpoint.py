"""
An endpoint that connects over TLS and verifies the server before it builds the protocol.

Decides when a connection is made: after the TCP connection, the TLS handshake and the check by ``ServerVerifier``.  The
protocol is not built earlier, so no octet of a query leaves over a connection that was not verified.

(Twisted's ``wrapClientTLS`` endpoint fires at the TCP connection; ``ClientService`` with it.)
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import error as net_error
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionDone
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dotproxy.errors import Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.upstream.certificate_names import printable
from dotproxy.upstream.timers import cancel
from dotproxy.upstream.verification import Handshake, ServerVerifier


@implementer(IHandshakeListener)
class VerifyingProtocol(Protocol):
    """
    The protocol of a TLS connection until the server is verified; then it passes everything to the verified protocol.

    Tells: the verified protocol, whose ``identity`` it sets to what was verified of the peer.
    Owns: ``opened``, which fires once, with that protocol or with an ``UpstreamError``.
    Ends when: the connection ends.
    """

    transport: Any

    def __init__(self, factory: IProtocolFactory, handshake: Handshake) -> None:
        self.opened: Deferred[IProtocol] = Deferred(self._cancelled)
        self._factory = factory
        self._handshake = handshake
        self._verified: Any = None
        self._is_first_data = True

    def handshakeCompleted(self) -> None:
        """
        Called by Twisted after the TLS handshake, before any application data.
        """
        if self.opened.called:
            return
        try:
            identity = self._handshake.verify()
            verified: Any = self._factory.buildProtocol(self.transport.getPeer())
            if verified is None:
                raise Untrusted("verify", "no longer wanted")
        except Untrusted as error:
            self._refuse(error)
        except Exception as error:
            self._refuse(Untrusted("verify", f"the check itself failed: {printable(repr(error))}"))
        else:
            self._verified = verified
            verified.identity = identity
            verified.makeConnection(self.transport)
            self.opened.callback(verified)

    def dataReceived(self, data: bytes) -> None:
        """
        Pass application data on; ignore it before the verification, and after a refusal.
        """
        if self._verified is None:
            return
        if self._is_first_data:
            self._is_first_data = False
            self._handshake.remember_session()
        self._verified.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Tell the verified protocol, or fail ``opened``.
        """
        if self._verified is not None:
            self._verified.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(self._handshake.explain(reason))

    def give_up(self, error: UpstreamError) -> None:
        """
        Fail the attempt, if it has not ended.
        """
        if not self.opened.called:
            self._refuse(error)

    def _refuse(self, error: UpstreamError) -> None:
        # The error is kept while the upstream is down; its frames need not be.
        self.opened.errback(error.with_traceback(None))
        if self.transport is not None:
            self.transport.abortConnection()

    def _cancelled(self, opened: Deferred[IProtocol]) -> None:
        if self.transport is not None:
            self.transport.abortConnection()


class _TlsFactory(TLSMemoryBIOFactory):
    """
    TLS that writes at once: queries come in batches already.
    """

    protocol = TLSMemoryBIOProtocol


@implementer(IStreamClientEndpoint)
class VerifiedEndpoint:
    """
    One address of an upstream.

    ``timeout`` bounds TCP and TLS together, in seconds.  ``connect`` fails only with ``UpstreamError``,
    or ``CancelledError`` if it was cancelled.
    """

    def __init__(self, reactor: IReactorTCP, host: str, port: int, verifier: ServerVerifier, timeout: float) -> None:
        tcp = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        self._clock = cast(IReactorTime, reactor)
        self._tcp = tcp(reactor, host, port, timeout + 1)
        self._verifier = verifier
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for the protocol of a verified connection.
        """
        try:
            handshake = self._verifier.handshake()
        except Exception as error:
            return fail(Unreachable("tls", f"TLS cannot be used on this system: {error}"))
        verifying = VerifyingProtocol(protocolFactory, handshake)
        factory = Factory.forProtocol(lambda: verifying)
        factory.noisy = False
        dialling: Deferred[Any] = self._tcp.connect(_TlsFactory(handshake, True, factory, clock=self._clock))
        is_connected = False

        def stands(_: object) -> None:
            nonlocal is_connected
            is_connected = True

        def cannot(failure: Failure) -> None:
            verifying.give_up(_explain_tcp(failure))

        def late() -> None:
            phase, what = ("tls", "the handshake took") if is_connected else ("connect", "connecting took")
            verifying.give_up(Timeout(phase, f"{what} more than {self._timeout:g} s"))
            dialling.cancel()

        timer = self._clock.callLater(self._timeout, late)

        def over(result: Any) -> Any:
            cancel(timer)
            if isinstance(result, Failure) and result.check(CancelledError):
                dialling.cancel()
            return result

        dialling.addCallbacks(stands, cannot)
        return verifying.opened.addBoth(over)


def _explain_tcp(failure: Failure) -> UpstreamError:
    if failure.check(net_error.TimeoutError):
        return Timeout("connect", "timed out")
    if failure.check(ConnectionDone, CancelledError, ConnectingCancelledError):
        return Unreachable("connect", "given up")
    if isinstance(failure.value, ConnectError) and failure.value.osError:
        # Twisted's text is its class's docstring and the errno in front: keep what the kernel said.
        return Unreachable("connect", str(failure.value).rstrip(".").rpartition(": ")[2].lower())
    return Unreachable("connect", failure.getErrorMessage())
