"""
Connections to the operator's address, as clients and attackers use them.
"""

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.admin.http import (
    BURST,
    IDLE_TIMEOUT,
    MAX_CONNECTIONS,
    MAX_HEAD,
    RATE,
    REQUEST_TIMEOUT,
    WRITE_TIMEOUT,
    HttpConnection,
    HttpFactory,
    Request,
    Response,
)

GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(StringTransport):
    """
    A transport that can be closed in two ways.
    """

    protocol: HttpConnection
    is_written_off = False

    def loseWriteConnection(self) -> None:
        """
        Called when nothing more will be written.
        """
        assert self.producer is None, "it would wait for its producer"
        self.is_written_off = True

    def abortConnection(self) -> None:
        """
        Called to end it.
        """
        self.disconnected = True
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def resumeProducing(self) -> None:
        """
        Called to be read on; nothing is to be done if it is.
        """
        self.producerState = "producing"

    def pauseProducing(self) -> None:
        """
        Called not to be read.
        """
        self.producerState = "paused"


class HttpTests(SynchronousTestCase):
    """
    One client, and several.
    """

    def setUp(self) -> None:
        """
        A server that answers what it is told to.
        """
        self.clock = Clock()
        self.requests: list[Request] = []
        self.answers: list[Any] = []
        self.factory = HttpFactory(self.respond, clock=self.clock, error=self.error, max_body=10)

    def respond(self, request: Request, transport: Any) -> Any:
        """
        Called with a request.
        """
        self.requests.append(request)
        return self.answers.pop(0) if self.answers else Response(200, b"fine")

    def error(self, code: int, reason: str) -> Response:
        """
        Called for what cannot be answered.
        """
        return Response(code, reason.encode())

    def connect(self) -> Transport:
        """
        A client.
        """
        transport = Transport()
        transport.protocol = self.factory.buildProtocol(None)  # type: ignore[arg-type,assignment]
        transport.protocol.makeConnection(transport)
        return transport

    def test_request_is_answered_and_another_may_follow(self) -> None:
        """
        It is answered with a length and with headers for browsers, and another one can follow.
        """
        client = self.connect()
        for octet in GET:
            client.protocol.dataReceived(bytes((octet,)))
        head, _, body = client.value().partition(b"\r\n\r\n")
        self.assertEqual(b"fine", body)
        lines = head.decode().split("\r\n")
        self.assertEqual("HTTP/1.1 200 OK", lines[0])
        for line in (
            "Content-Length: 4",
            "Content-Type: text/plain; charset=utf-8",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
        ):
            self.assertIn(line, lines)
        client.clear()
        client.protocol.dataReceived(GET.replace(b"GET", b"HEAD"))
        self.assertIn(b"Content-Length: 4\r\n", client.value())
        self.assertTrue(client.value().endswith(b"\r\n\r\n"))

    def test_body_is_awaited_and_limited(self) -> None:
        """
        They are waited for; more than may be is refused before it has come.
        """
        client = self.connect()
        post = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        client.protocol.dataReceived(post % 5 + b"abc")
        self.assertEqual([], self.requests)
        client.protocol.dataReceived(b"de" + GET)
        self.assertEqual([b"abcde", b""], [request.body for request in self.requests])
        client.clear()
        client.protocol.dataReceived(post % 11)
        self.assertTrue(client.value().startswith(b"HTTP/1.1 413 "))
        client.protocol.dataReceived(b"x" * 100_000)
        self.assertEqual(2, len(self.requests))
        self.assertTrue(client.is_written_off)
        self.clock.advance(WRITE_TIMEOUT)
        self.assertTrue(client.disconnected)

    def test_long_head_is_refused(self) -> None:
        """
        It is refused however it comes.
        """
        for pieces in ((b"x" * (MAX_HEAD + 1),), (b"x" * 100,) * 90, (GET[:-2] + b"a: b\r\n" * 2000 + b"\r\n",)):
            client = self.connect()
            for piece in pieces:
                client.protocol.dataReceived(piece)
            self.assertTrue(client.value().startswith(b"HTTP/1.1 431 "), pieces[0][:20])
            self.assertTrue(client.is_written_off)
            self.assertEqual(b"", client.protocol._received)

    def test_slow_request_times_out(self) -> None:
        """
        A request has so long in all, however often an octet comes; between requests there is more time.
        """
        client = self.connect()
        for octet in GET[:9]:
            client.protocol.dataReceived(bytes((octet,)))
            self.clock.advance(REQUEST_TIMEOUT / 10)
        self.assertFalse(client.disconnected)
        self.clock.advance(REQUEST_TIMEOUT / 10)
        self.assertTrue(client.disconnected)
        client = self.connect()
        self.clock.advance(IDLE_TIMEOUT - 1)
        client.protocol.dataReceived(GET)
        self.clock.advance(IDLE_TIMEOUT - 1)
        client.protocol.dataReceived(GET)
        self.clock.advance(IDLE_TIMEOUT - 1)
        self.assertFalse(client.disconnected)
        self.clock.advance(1)
        self.assertTrue(client.disconnected)
        silent = self.connect()
        self.clock.advance(IDLE_TIMEOUT)
        self.assertTrue(silent.disconnected)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_client_that_does_not_read_is_paused_and_ended(self) -> None:
        """
        It is sent one response, read no further, and ended soon; one that reads again goes on.
        """
        client = self.connect()
        self.answers = [Response(200, b"x" * 100_000)]
        client.protocol.dataReceived(GET)
        client.protocol.pauseProducing()
        self.assertEqual("paused", client.producerState)
        client.protocol.dataReceived(GET * 10)
        self.assertEqual(1, len(self.requests))
        client.protocol.resumeProducing()
        self.assertEqual("producing", client.producerState)
        self.assertEqual(11, len(self.requests))
        client.protocol.pauseProducing()
        self.clock.advance(WRITE_TIMEOUT)
        self.assertTrue(client.disconnected)

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        """
        They are answered in order, one at a time; when many wait no more is read.
        """
        client = self.connect()
        first: Deferred[Response] = Deferred()
        self.answers = [first, Response(200, b"second")]
        client.protocol.dataReceived(GET * 2)
        self.assertEqual(1, len(self.requests))
        client.protocol.dataReceived(GET * 400)
        self.assertEqual("paused", client.producerState)
        first.callback(Response(200, b"first"))
        self.assertEqual("paused", client.producerState)
        while len(client.protocol._received) > MAX_HEAD:
            self.assertEqual("paused", client.producerState)
            self.clock.advance(0.01)
        self.assertEqual("producing", client.producerState)
        self.assertLess(client.value().index(b"first"), client.value().index(b"second"))

    def test_request_rate_is_limited(self) -> None:
        """
        So many requests a second are answered over all connections, and so many more at once.
        """
        client = self.connect()
        client.protocol.dataReceived(GET * 1000)
        at_once = len(self.requests)
        self.assertTrue(BURST - 1 <= at_once <= BURST, at_once)
        other = self.connect()
        other.protocol.dataReceived(GET)
        for _ in range(200):
            self.clock.advance(0.01)
        self.assertTrue(2 * RATE - 2 <= len(self.requests) - at_once <= 2 * RATE + 2)
        self.assertIn(b"fine", other.value())

    def test_lost_connection_is_not_answered(self) -> None:
        """
        Neither when its turn comes, nor when its answer is there.
        """
        client = self.connect()
        late: Deferred[Response] = Deferred()
        self.answers = [late]
        client.protocol.dataReceived(GET)
        client.abortConnection()
        late.callback(Response(200, b"late"))
        self.assertEqual(b"", client.value())
        self.factory._next_at = self.clock.seconds() + 1
        client = self.connect()
        client.protocol.dataReceived(GET)
        client.abortConnection()
        self.clock.advance(2)
        self.assertEqual((1, {}), (len(self.requests), self.factory.connections))

    def test_new_connection_replaces_the_longest_idle_one(self) -> None:
        """
        One that is being answered keeps its place, as long as there is another.
        """
        clients = [self.connect() for _ in range(MAX_CONNECTIONS)]
        pending: Deferred[Response] = Deferred()
        self.answers = [pending]
        clients[0].protocol.dataReceived(GET)
        clients[1].protocol.dataReceived(GET)  # answered: it has just been of use
        self.connect()
        self.assertEqual([clients[2]], [client for client in clients if client.disconnected])
        self.assertEqual(MAX_CONNECTIONS, len(self.factory.connections))
        for _ in range(3 * MAX_CONNECTIONS):
            self.connect().protocol.dataReceived(b"GET /slow")
        self.assertFalse(clients[0].disconnected)
        self.assertEqual(MAX_CONNECTIONS, len(self.factory.connections))
        pending.callback(Response(200, b"at last"))
        self.assertIn(b"at last", clients[0].value())

    def test_oldest_connection_ends_if_all_are_busy(self) -> None:
        """
        Then the oldest goes.
        """
        self.answers = [Deferred() for _ in range(MAX_CONNECTIONS)]
        self.factory._next_at = -1e9
        clients = []
        for _ in range(MAX_CONNECTIONS):
            clients.append(self.connect())
            clients[-1].protocol.dataReceived(GET)
            self.clock.advance(0.1)
        self.connect()
        self.assertTrue(clients[0].disconnected)
        self.assertEqual(MAX_CONNECTIONS, len(self.factory.connections))

    def test_exception_is_logged_and_gives_500(self) -> None:
        """
        It is logged, and the client told so.
        """
        client = self.connect()
        self.answers = [fail(Failure(RuntimeError("odd")))]
        client.protocol.dataReceived(GET)
        self.assertTrue(client.value().startswith(b"HTTP/1.1 500 "))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_stop_ends_idle_connections_and_answers_the_others(self) -> None:
        """
        When nobody listens any more those that wait for a request are ended, and the others once they were answered.
        """
        idle, reading, waiting = (self.connect() for _ in range(3))
        reading.protocol.dataReceived(b"GET")
        pending: Deferred[Response] = Deferred()
        self.answers = [pending]
        waiting.protocol.dataReceived(GET)
        self.factory.stopFactory()
        self.assertEqual((True, True), (idle.is_written_off, reading.disconnected))
        pending.callback(Response(200, b"last"))
        self.assertIn(b"Connection: close\r\n", waiting.value())
        self.assertTrue(waiting.is_written_off)
        for client in (idle, waiting):
            client.abortConnection()
        self.assertEqual(([], {}), (self.clock.getDelayedCalls(), self.factory.connections))

    def test_connection_closes_after_http_1_0_or_on_request(self) -> None:
        """
        After HTTP/1.0, and where the client says so, the connection is closed.
        """
        for octets in (b"GET / HTTP/1.0\r\n\r\n", GET[:-2] + b"Connection: close\r\n\r\n"):
            client = self.connect()
            client.protocol.dataReceived(octets + GET)
            self.assertEqual(1, client.value().count(b"HTTP/1.1 200 OK"))
            self.assertTrue(client.is_written_off)
