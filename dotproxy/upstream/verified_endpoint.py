"""
The gate: an endpoint whose connections are verified, or do not exist.

Decides that a connection stands when, and only when, the TCP connection and the TLS handshake are done
and ``trust`` is content.  The protocol behind it is not built earlier, so it cannot write earlier: not
one octet of a question leaves on a connection that was not verified.

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
    Stands on a TLS connection until it is verified, then passes everything to the protocol behind it.

    Tells: the protocol behind, which learns from ``identity`` who its peer was verified to be.
    Owns: ``opened``, which fires once, with that protocol or with an ``UpstreamError``.
    Ends when: the connection does.
    """

    transport: Any

    def __init__(self, factory: IProtocolFactory, handshake: Handshake) -> None:
        self.opened: Deferred[IProtocol] = Deferred(self._cancelled)
        self._factory = factory
        self._handshake = handshake
        self._behind: Any = None
        self._is_first_data = True

    def handshakeCompleted(self) -> None:
        """
        Called by Twisted when TLS stands and nothing has been said over it.
        """
        if self.opened.called:
            return
        try:
            identity = self._handshake.verify()
            behind: Any = self._factory.buildProtocol(self.transport.getPeer())
            if behind is None:
                raise Untrusted("verify", "no longer wanted")
        except Untrusted as error:
            self._refuse(error)
        except Exception as error:
            self._refuse(Untrusted("verify", f"the check itself failed: {printable(repr(error))}"))
        else:
            self._behind = behind
            behind.identity = identity
            behind.makeConnection(self.transport)
            self.opened.callback(behind)

    def dataReceived(self, data: bytes) -> None:
        """
        Application data; before the gate opened, or after it refused, there can be none that counts.
        """
        if self._behind is None:
            return
        if self._is_first_data:
            self._is_first_data = False
            self._handshake.remember_session()
        self._behind.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Tell the protocol behind, or else whoever is waiting for it.
        """
        if self._behind is not None:
            self._behind.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(self._handshake.explain(reason))

    def give_up(self, error: UpstreamError) -> None:
        """
        End the attempt, if it has not ended.
        """
        if not self.opened.called:
            self._refuse(error)

    def _refuse(self, error: UpstreamError) -> None:
        # It is kept for as long as the upstream is down; the frames it was raised in need not be.
        self.opened.errback(error.with_traceback(None))
        if self.transport is not None:
            self.transport.abortConnection()

    def _cancelled(self, opened: Deferred[IProtocol]) -> None:
        if self.transport is not None:
            self.transport.abortConnection()


class _TlsFactory(TLSMemoryBIOFactory):
    """
    TLS that is written when it is told to: questions come in batches already, and need not wait for more.
    """

    protocol = TLSMemoryBIOProtocol


@implementer(IStreamClientEndpoint)
class VerifiedEndpoint:
    """
    One address of an upstream.

    ``timeout`` bounds TCP and TLS together, in seconds.  ``connect`` fails only with ``UpstreamError``,
    or ``CancelledError`` if it was cancelled.
    """

    def __init__(self, reactor: IReactorTCP, host: str, port: int, trust: ServerVerifier, timeout: float) -> None:
        tcp = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        self._clock = cast(IReactorTime, reactor)
        self._tcp = tcp(reactor, host, port, timeout + 1)
        self._trust = trust
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for the protocol of a verified connection.
        """
        try:
            handshake = self._trust.handshake()
        except Exception as error:
            return fail(Unreachable("tls", f"TLS cannot be used on this system: {error}"))
        gate = VerifyingProtocol(protocolFactory, handshake)
        factory = Factory.forProtocol(lambda: gate)
        factory.noisy = False
        dialling: Deferred[Any] = self._tcp.connect(_TlsFactory(handshake, True, factory, clock=self._clock))
        standing = False

        def stands(_: object) -> None:
            nonlocal standing
            standing = True

        def cannot(failure: Failure) -> None:
            gate.give_up(_explain_tcp(failure))

        def late() -> None:
            phase, what = ("tls", "the handshake took") if standing else ("connect", "connecting took")
            gate.give_up(Timeout(phase, f"{what} more than {self._timeout:g} s"))
            dialling.cancel()

        timer = self._clock.callLater(self._timeout, late)

        def over(result: Any) -> Any:
            cancel(timer)
            if isinstance(result, Failure) and result.check(CancelledError):
                dialling.cancel()
            return result

        dialling.addCallbacks(stands, cannot)
        return gate.opened.addBoth(over)


def _explain_tcp(failure: Failure) -> UpstreamError:
    if failure.check(net_error.TimeoutError):
        return Timeout("connect", "timed out")
    if failure.check(ConnectionDone, CancelledError, ConnectingCancelledError):
        return Unreachable("connect", "given up")
    if isinstance(failure.value, ConnectError) and failure.value.osError:
        # Twisted's text is its class's docstring and the errno in front: keep what the kernel said.
        return Unreachable("connect", str(failure.value).rstrip(".").rpartition(": ")[2].lower())
    return Unreachable("connect", failure.getErrorMessage())
