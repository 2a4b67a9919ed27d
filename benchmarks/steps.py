"""
The parts of dotproxy on a bench: each with stand-ins for its neighbours, so that it can be timed alone.

Decides what a step is given: batches of 64 queries with EDNS for names of lab.example, as a busy listener hands them
on, and answers with one address.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from OpenSSL import SSL
from twisted.internet.task import Clock

from dotproxy.cache.responses import CacheSettings, ResponseCache
from dotproxy.downstream.sockets import bind_both
from dotproxy.downstream.udp import UdpListener
from dotproxy.downstream.udp_port import BATCH, UdpPort
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.forwarding.query_filter import QueryFilter
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.forwarding.settings import DispatcherSettings, ForwarderSettings
from dotproxy.policy.access import AccessList
from dotproxy.policy.budget import Budget
from dotproxy.policy.client import Client, ClientMessage
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.share_settings import ShareSettings
from dotproxy.policy.special_names import SpecialNames
from dotproxy.telemetry.counters import UDP, UpstreamCounters
from dotproxy.testing.certificates import Authority
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import ScriptedUpstream
from dotproxy.upstream.connection import DotConnection
from dotproxy.wire.framing import frame
from dotproxy.wire.message import QueryInfo, parse_query
from dotproxy.wire.rewrite import EdnsRewriter

CLIENT = Client("127.0.0.1", 4000)

_ADDRESS_AND_OPT = (
    b"\xc0\x0c\0\1\0\1\0\1\x51\x80\0\4\xc0\0\2\1"  # one A record, of a day
    b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
)

#: 256 IDs.
_NOT_RANDOM = bytes(octet for ident in range(256) for octet in (7, ident))

_numbers = itertools.count()


def queries(count: int = BATCH) -> list[bytes]:
    """
    Queries for names that nobody asked for before.
    """
    return [make_query(f"n{next(_numbers):08}.lab.example", 1) for _ in range(count)]


def from_clients(batch: list[bytes]) -> list[ClientMessage]:
    """
    Queries as a listener hands them on.
    """
    return [(query, CLIENT) for query in batch]


def answer_to(query: bytes) -> bytes:
    """
    What an upstream says to a query.
    """
    end = query.index(b"\0", 12) + 5
    return query[:2] + b"\x81\x80\0\1\0\1\0\0\0\1" + query[12:end] + _ADDRESS_AND_OPT


class Listener:
    """
    Answers go nowhere.
    """

    kind = UDP
    is_stream = False
    takes_transfers = False

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        None.
        """
        return b""

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Nobody waits for them.
        """


class Forwarding:
    """
    A forwarder as it is by default, but that time stands still for its cache, so that the memo is cleared only by
    ``forwarder.flushed``.
    """

    def __init__(self) -> None:
        self.listener = Listener()
        self.upstream = ScriptedUpstream()
        rewriter, clock = EdnsRewriter(), Clock()
        self.dispatcher = Dispatcher(
            [self.upstream],
            DispatcherSettings(rewriter.parse_response, Budget(0.03), query_timeout=4.0, attempt_timeout=1.5),
            clock=clock,
            monotonic=time.monotonic,
        )
        shares = ClientShares(ShareSettings(AccessList([ip_network("127.0.0.0/8")]).allows, max_in_flight=1_000_000))
        shares.verify(shares.share_of(CLIENT.host, 0.0))
        self.forwarder = Forwarder(
            self.dispatcher,
            ForwarderSettings(
                ordering=lambda octets, info: (0,),
                query_filter=QueryFilter(SpecialNames(["test"]), rewriter),
                rewriter=rewriter,
                response_builder=ResponseBuilder(rewriter, 1232),
            ),
            transfers=None,  # type: ignore[arg-type]  # none are asked for
            cache=ResponseCache(CacheSettings(stale_for=86_400.0), entries=100_000, octets=1 << 27),
            clock=clock,
            monotonic=time.monotonic,
            boottime=lambda: 1.0,
            wall_time=time.time,
            shares=shares,
        )

    def ask(self, batch: list[ClientMessage]) -> None:
        """
        Queries come.
        """
        self.forwarder.handle_batch(self.listener, batch)

    def answers(self) -> list[tuple[Any, bytes]]:
        """
        What the upstream has to say to all it was asked.
        """
        asked, self.upstream.asked = self.upstream.asked, []
        return [(token, answer_to(sent)) for token, sent, _ in asked]

    def answer(self, answers: list[tuple[Any, bytes]]) -> None:
        """
        Answers come.
        """
        self.dispatcher.replies_received(self.upstream, answers)


class Memory:
    """
    A transport that keeps what is written last, and passes for TLS.
    """

    def __init__(self) -> None:
        self.written = b""

    def write(self, octets: bytes) -> None:
        """
        Called by the protocol.
        """
        self.written = octets

    def getPeerCertificate(self) -> None:
        """
        There is TLS, it says.
        """

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001
        """
        Called by the protocol.
        """

    setTcpKeepAlive = setTcpNoDelay

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: FBT001
        """
        Called by the protocol.
        """


class Exchange:
    """
    A connection to an upstream, and the upstream's answers to a batch, which are known beforehand since the IDs are not
    as random as they should be: the same 256 again and again.
    """

    def __init__(self) -> None:
        self.answered = 0
        self._clock = Clock()
        self._transport = Memory()
        self._protocol = DotConnection(
            self,
            clock=self._clock,
            now=time.monotonic,
            random_octets=lambda size: _NOT_RANDOM[:size],
            idle_timeout=30.0,
            counters=UpstreamCounters(),
        )
        self._protocol.makeConnection(self._transport)  # type: ignore[arg-type]
        self._batch = [(object(), query, len(query) - 11) for query in queries()]
        self._replies = itertools.cycle([self._reply() for _ in range(256 // BATCH)])

    def replies_received(self, connection: DotConnection, answers: list[tuple[Any, bytes]]) -> None:
        """
        Called by the protocol.
        """
        self.answered += len(answers)

    @property
    def outstanding(self) -> int:
        """
        How many questions have no answer.
        """
        return self._protocol.outstanding

    def round_trip(self) -> None:
        """
        Ask a batch, and read its answers.
        """
        self._protocol.send(self._batch)
        self._protocol.dataReceived(next(self._replies))
        self._clock.advance(0)

    def _reply(self) -> bytes:
        self._protocol.send(self._batch)
        at, replies = 0, b""
        while at < len(self._transport.written):
            size = int.from_bytes(self._transport.written[at : at + 2], "big")
            replies += frame(answer_to(self._transport.written[at + 2 : at + 2 + size]))
            at += 2 + size
        self._protocol.dataReceived(replies)
        self._clock.advance(0)
        return replies


class Tls:
    """
    Two ends of a TLS connection, joined in memory.
    """

    def __init__(self) -> None:
        certificate = Authority().issue(["dot.test"])
        self._server = SSL.Connection(certificate.server_options().getContext(), None)
        self._server.set_accept_state()
        self._client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        self._client.set_connect_state()
        for _ in range(4):
            for end, other in ((self._client, self._server), (self._server, self._client)):
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                self._carry(end, other)
        with contextlib.suppress(SSL.WantReadError):
            self._client.recv(1)  # which reads the session tickets, and nothing else

    def carry(self, octets: bytes) -> bytes:
        """
        Write one record, and read it at the other end.
        """
        self._client.send(octets)
        self._carry(self._client, self._server)
        read: bytes = self._server.recv(65536)
        return read

    def carry_back(self, messages: list[bytes]) -> bytes:
        """
        Write a record for each, as most upstreams do, and read them at the other end, all that there are.
        """
        for message in messages:
            self._server.send(message)
        self._carry(self._server, self._client)
        read = []
        with contextlib.suppress(SSL.WantReadError):
            while True:
                read.append(self._client.recv(65536))
        return b"".join(read)

    @staticmethod
    def _carry(end: SSL.Connection, other: SSL.Connection) -> None:
        with contextlib.suppress(SSL.WantReadError):
            other.bio_write(end.bio_read(65536))


class Reactor(Clock):
    """
    One that reads when it is told.
    """

    def addReader(self, reader: object) -> None:
        """
        Called by the port.
        """

    removeReader = removeWriter = addReader


class Sockets:
    """
    A port that answers every datagram with itself, on a socket, and a client.
    """

    def __init__(self) -> None:
        self._bound, streams = bind_both("127.0.0.1", 0)
        streams.close()
        reactor = Reactor()
        self.port = UdpPort(self._bound, UdpListener(self, reactor), reactor)
        self.port.startListening()
        self._client = socket.socket(type=socket.SOCK_DGRAM)
        self._client.connect(self._bound.getsockname())
        self._client.setblocking(False)

    def handle_batch(self, listener: UdpListener, batch: list[Any]) -> int:
        """
        Called by the listener.
        """
        listener.send_answers(batch)
        return 0

    def send(self, batch: list[bytes]) -> None:
        """
        The client reads what it got, and asks.
        """
        for _ in self.received():
            pass
        for query in batch:
            self._client.send(query)

    def received(self) -> Iterator[bytes]:
        """
        Yield what the client got.
        """
        try:
            while True:
                yield self._client.recv(4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """
        Be done.
        """
        self._client.close()
        self._bound.close()


def info(batch: list[bytes]) -> list[tuple[bytes, QueryInfo]]:
    """
    Queries, and what is seen of them.
    """
    return [(query, parse_query(query)) for query in batch]
