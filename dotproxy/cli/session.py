"""
One connection to an upstream, for somebody who wants to look at it: the same endpoint, trust and gate as the proxy's.

Decides how one question at a time, or several, are asked and how long is waited.  What is asked is the caller's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from dotproxy.config.model import Config
from dotproxy.errors import ConnectionGone
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.upstream.tcp_options import TICKET_DELAY, acknowledge_now
from dotproxy.upstream.tls_errors import lost
from dotproxy.upstream.verification import Identity, ServerVerifier, TlsChoices
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from dotproxy.wire.framing import Deframer, frame

#: How long an answer is waited for, in seconds.
PROBE_REPLY_TIMEOUT = 3.0


class Session(Protocol):
    """
    A verified connection; answers are told apart by their IDs.
    """

    transport: Any
    identity: Identity

    def __init__(self) -> None:
        self._deframer = Deframer()
        self._waiting: dict[int, Deferred[bytes]] = {}
        #: IDs in the order their answers came.
        self.answered: list[int] = []
        self.closed: Deferred[str] = Deferred()

    def ask(self, queries: Sequence[bytes], clock: Any) -> list[Deferred[bytes]]:
        """
        Ask, all in one write as the proxy does; return Deferreds for the answers, each of which fails after
        ``PATIENCE``.
        """
        answers: list[Deferred[bytes]] = []
        for query in queries:
            waiting: Deferred[bytes] = Deferred()
            self._waiting[query[0] << 8 | query[1]] = waiting
            answers.append(waiting.addTimeout(PROBE_REPLY_TIMEOUT, clock))
        self.transport.write(b"".join(map(frame, queries)))
        return answers

    def dataReceived(self, data: bytes) -> None:
        """
        Answers came.
        """
        for reply in self._deframer.feed(data):
            if len(reply) < 12:
                continue
            ident = reply[0] << 8 | reply[1]
            waiting = self._waiting.pop(ident, None)
            if waiting is not None and not waiting.called:
                self.answered.append(ident)
                waiting.callback(reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        It is over.
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
        End it.
        """
        if self.transport is not None:
            self.transport.abortConnection()


def trust_in(config: Config, upstream: UpstreamAddress, host: str) -> ServerVerifier:
    """
    Return how one address of an upstream is authenticated, as the configuration has it.
    """
    return ServerVerifier(
        address=host,
        name=upstream.name,
        pins=upstream.pins,
        ca=config.ca_file.read_bytes() if config.ca_file else None,
        now=lambda: datetime.now(UTC),
        tls=TlsChoices(config.tls_minimum, config.tls_ciphers or ""),
    )


async def connect(reactor: Any, host: str, port: int, trust: ServerVerifier, timeout: float) -> tuple[Session, float]:
    """
    Return a verified connection, and how long it took to come about, in seconds.

    :raises UpstreamError: if there is none to be had.
    """
    factory = Factory.forProtocol(Session)
    factory.noisy = False
    began = time.perf_counter()
    session: Any = await VerifiedEndpoint(reactor, host, port, trust, timeout).connect(factory)
    took = time.perf_counter() - began
    session.transport.setTcpNoDelay(True)
    reactor.callLater(TICKET_DELAY, _acknowledge, session.transport.transport.getHandle())
    return session, took


def _acknowledge(handle: socket.socket) -> None:
    with suppress(OSError):  # the connection is closed already
        acknowledge_now(handle)
