"""
A plain DNS client, for queries to a proxy on this machine.

Decides nothing; sends octets and returns the octets that come back.  Not for use over a network.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import DatagramProtocol, Protocol, connectionDone
from twisted.python.failure import Failure

from dotproxy.wire.edns import opt_record
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import HEADER, RD
from dotproxy.wire.names import from_text
from dotproxy.wire.responses import OUR_UDP_SIZE


def make_query(name: str, rtype: int, *, ident: int = 1, edns: bool = True) -> bytes:
    """
    Return a query for ``name``, in presentation form, with RD set.
    """
    question = from_text(name) + rtype.to_bytes(2, "big") + b"\0\1"
    return HEADER.pack(ident, RD, 1, 0, 0, int(edns)) + question + (opt_record(OUR_UDP_SIZE) if edns else b"")


async def ask_udp(reactor: Any, host: str, port: int, query: bytes, timeout: float = 6.0) -> bytes:
    """
    Send ``query`` over UDP and return the response.

    :raises twisted.internet.defer.TimeoutError: without one.
    """
    client = _Datagrams()
    listening = reactor.listenUDP(0, client, interface=host)
    try:
        client.transport.write(query, (host, port))
        return await client.reply.addTimeout(timeout, reactor)
    finally:
        await listening.stopListening()


async def ask_tcp(reactor: Any, host: str, port: int, query: bytes, timeout: float = 6.0) -> bytes:
    """
    Send ``query`` over TCP and return the response.

    :raises twisted.internet.defer.TimeoutError: without one.
    """
    client = _Stream()
    await connectProtocol(TCP4ClientEndpoint(reactor, host, port), client)
    try:
        client.transport.write(frame(query))
        return await client.reply.addTimeout(timeout, reactor)
    finally:
        client.transport.loseConnection()


class _Datagrams(DatagramProtocol):
    noisy = False
    transport: Any

    def __init__(self) -> None:
        self.reply: Deferred[bytes] = Deferred()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if not self.reply.called:
            self.reply.callback(datagram)


class _Stream(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.reply: Deferred[bytes] = Deferred()
        self._deframer = Deframer()

    def dataReceived(self, data: bytes) -> None:
        for message in self._deframer.feed(data):
            if not self.reply.called:
                self.reply.callback(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.reply.called:
            self.reply.errback(reason)
