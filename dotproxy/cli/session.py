"""
One connection to an upstream for diagnostics, with the same endpoint and verification as the proxy's.

Decides how queries are sent, one at a time or several, and how long responses may take.  What is asked is the caller's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from dotproxy.config.model import Config
from dotproxy.errors import ConnectionGone
from dotproxy.service.reactor import IServiceReactor
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.upstream.tcp_options import TICKET_DELAY, acknowledge_now
from dotproxy.upstream.tls_errors import lost
from dotproxy.upstream.verification import Identity, ServerVerifier, TlsChoices
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from dotproxy.wire.framing import Deframer, frame

#: Seconds until a query without a response fails.
PROBE_REPLY_TIMEOUT = 3.0


def id_of(message: bytes) -> int:
    """
    Return the ID of a message.
    """
    return int.from_bytes(message[:2], "big")


class Session(Protocol):
    """
    A verified connection; responses are matched with queries by their IDs.
    """

    transport: Any
    identity: Identity

    def __init__(self) -> None:
        self._deframer = Deframer()
        self._waiting: dict[int, Deferred[bytes]] = {}
        #: IDs in the order of their responses.
        self.answered: list[int] = []
        self.closed: Deferred[str] = Deferred()

    def ask(self, queries: Sequence[bytes], clock: IReactorTime) -> list[Deferred[bytes]]:
        """
        Send queries in one write, as the proxy does; return a Deferred for each response, which fails after
        ``PROBE_REPLY_TIMEOUT``.
        """
        answers: list[Deferred[bytes]] = []
        for query in queries:
            waiting: Deferred[bytes] = Deferred()
            self._waiting[id_of(query)] = waiting
            answers.append(waiting.addTimeout(PROBE_REPLY_TIMEOUT, clock))
        self.transport.write(b"".join(map(frame, queries)))
        return answers

    def dataReceived(self, data: bytes) -> None:
        """
        Match responses with queries; called by Twisted.
        """
        for reply in self._deframer.feed(data):
            if len(reply) < 12:
                continue
            ident = id_of(reply)
            waiting = self._waiting.pop(ident, None)
            if waiting is not None and not waiting.called:
                self.answered.append(ident)
                waiting.callback(reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Fail every query without a response; called by Twisted.
        """
        error = lost(reason)
        for waiting in self._waiting.values():
            if not waiting.called:
                waiting.errback(ConnectionGone("read", error.reason))
        self._waiting.clear()
        if not self.closed.called:
            self.closed.callback(error.reason)

    def close(self) -> None:
        """
        Abort the connection.
        """
        if self.transport is not None:
            self.transport.abortConnection()


def build_verifier(config: Config, upstream: UpstreamAddress, host: str) -> ServerVerifier:
    """
    Return what verifies one address of an upstream, as configured.
    """
    return ServerVerifier(
        address=host,
        name=upstream.name,
        pins=upstream.pins,
        ca=config.ca_file.read_bytes() if config.ca_file else None,
        now=lambda: datetime.now(UTC),
        tls=TlsChoices(config.tls_minimum, config.tls_ciphers or ""),
    )


async def connect(
    reactor: IServiceReactor, host: str, port: int, verifier: ServerVerifier, timeout: float
) -> tuple[Session, float]:
    """
    Return a verified connection, and how many seconds it took.

    :raises UpstreamError: if there is none.
    """
    factory = Factory.forProtocol(Session)
    factory.noisy = False
    began = time.perf_counter()
    session: Any = await VerifiedEndpoint(reactor, host, port, verifier, timeout).connect(factory)
    took = time.perf_counter() - began
    session.transport.setTcpNoDelay(True)
    reactor.callLater(TICKET_DELAY, _acknowledge, session.transport.transport.getHandle())
    return session, took


def _acknowledge(handle: socket.socket) -> None:
    with suppress(OSError):  # the connection is closed already
        acknowledge_now(handle)
