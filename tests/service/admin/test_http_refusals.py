"""
What is a request to the admin address, and what is refused; how little is done for it.
"""

import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.admin.http import (
    IDLE_TIMEOUT,
    MAX_BODY,
    MAX_HEAD,
    MAX_HEADERS,
    REQUEST_TIMEOUT,
    WRITE_TIMEOUT,
    HttpFactory,
    Request,
    Response,
)
from tests.service.admin.test_http import GET, Transport

HOST = b"\r\nHost: x"


class RefusalTests(SynchronousTestCase):
    """
    A head is a request, or is refused.
    """

    def setUp(self) -> None:
        """
        A server that remembers what it was asked.
        """
        self.clock = Clock()
        self.requests: list[Request] = []
        self.max_body = MAX_BODY

    def connect(self) -> Transport:
        """
        A client of a server of its own, whose pace it cannot exceed.
        """

        def respond(request: Request, transport: Any) -> Response:
            self.requests.append(request)
            return Response(200, b"fine")

        factory = HttpFactory(
            respond,
            clock=self.clock,
            error=lambda code, reason: Response(code, reason.encode()),
            max_body=self.max_body,
        )
        transport = Transport()
        transport.protocol = factory.buildProtocol(None)  # type: ignore[arg-type,assignment]
        transport.protocol.makeConnection(transport)
        return transport

    def accepted(self, octets: bytes) -> tuple[Request, bool]:
        """
        It is answered; return what was asked, and whether more can be.
        """
        client = self.connect()
        client.protocol.dataReceived(octets)
        self.assertTrue(client.value().startswith(b"HTTP/1.1 200 OK\r\n"), client.value())
        return self.requests.pop(), not client.is_written_off

    def refused(self, code: int, octets: bytes) -> None:
        """
        It is refused with this status code and a reason, and the connection closed.
        """
        client = self.connect()
        client.protocol.dataReceived(octets + b"\r\n\r\n" + GET)
        head, _, reason = client.value().partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.assertTrue(lines[0].startswith(b"HTTP/1.1 %d " % code), (octets, head))
        for line in (b"Content-Length: %d" % len(reason), b"Connection: close", b"X-Content-Type-Options: nosniff"):
            self.assertIn(line, lines)
        self.assertTrue(reason.decode().isprintable())
        self.assertEqual(([], True), (self.requests, client.is_written_off), octets)
        client.abortConnection()

    def test_valid_requests_are_accepted(self) -> None:
        """
        As browsers, Prometheus, load balancers and http.client send them.
        """
        get = b"GET /flush?name=a%20b HTTP/1.1\r\nHost: x:9953\r\nAccept: */*\r\nX-Empty:\r\n\r\n"
        self.assertEqual((("GET", "/flush", "name=a%20b", "x:9953", b""), True), self.accepted(get))
        self.assertEqual((("GET", "/healthz", "", None, b""), False), self.accepted(b"GET /healthz HTTP/1.0\r\n\r\n"))
        self.assertFalse(self.accepted(b"GET / HTTP/1.1\r\nhost:x\r\nCONNECTION: TE, Close\r\n\r\n")[1])
        form = b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 3\r\n\r\na=1"
        for kind in (b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=a", b"text/plain"):
            self.assertEqual((("POST", "/log", "", "x", b"a=1"), True), self.accepted(form % kind))

    def test_ambiguous_requests_are_refused(self) -> None:
        """
        What two programs could read in two ways is no request.
        """
        for first in (
            b"",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/2.0",
            b"GET  / HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"GET http://x/metrics HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET /\x80 HTTP/1.1",
            b"GET /\xff HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
        ):
            self.refused(400, first + HOST)
        for header in (
            b"X",
            b"X : y",
            b"X\x00: y",
            b"X: y\nZ: w",
            b"X: y\x00",
            b": y",
            b"Host: y",
            b"Content-Length: -1",
            b"Content-Length: 1_0",
            b"Content-Length: 1\r\nContent-Length: 1",
            b"Content-Length: " + b"9" * 5000,
            b"Content-Length:",
            b"Transfer-Encoding: chunked\r\nContent-Length: 1",
        ):
            self.refused(400, b"POST / HTTP/1.1" + HOST + b"\r\n" + header)
        self.refused(400, b"GET / HTTP/1.1")
        for coding in (b"chunked", b"identity"):
            self.refused(411, b"POST / HTTP/1.1" + HOST + b"\r\nTransfer-Encoding: " + coding)
        self.refused(413, b"POST / HTTP/1.1" + HOST + b"\r\nContent-Length: %d" % (MAX_BODY + 1))
        self.refused(413, b"POST / HTTP/1.1" + HOST + b"\r\nContent-Length: 99999999999")
        self.refused(431, b"GET / HTTP/1.1" + HOST + b"\r\na: b" * MAX_HEADERS)
        self.refused(431, b"GET / HTTP/1.1" + HOST + (b"\r\na: " + b"b" * 2000) * 5)
        self.max_body = 0
        self.refused(413, b"GET / HTTP/1.1" + HOST + b"\r\nContent-Length: 1")

    @given(st.binary(max_size=300) | st.text(string.printable).map(str.encode))
    def test_any_octets_raise_nothing_and_stay_within_the_limits(self, octets: bytes) -> None:
        """
        Nothing is raised, and no more than there may be is taken.
        """
        for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST /"):
            client = self.connect()
            client.protocol.dataReceived(start + octets)
            client.protocol.dataReceived(b"\r\n\r\n")
            client.abortConnection()
        self.assertTrue(all(len(request.body) <= MAX_BODY for request in self.requests))

    def test_cookies_and_form_fields_are_not_parsed(self) -> None:
        """
        Cookies and form fields take milliseconds where they fill a head.
        """
        client = self.connect()
        seen: list[Any] = []
        channel: Any = client.protocol
        make = channel.requestFactory
        channel.requestFactory = lambda *given: seen.append(make(*given)) or seen[-1]
        query = b"&a=b" * 500
        client.protocol.dataReceived(b"GET /?" + query + b" HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n")
        (request,) = seen
        self.assertEqual(({}, None), (request.received_cookies, request.args))
        self.assertEqual(query.decode(), self.requests[0].query)

    def test_requests_and_client_addresses_are_not_logged(self) -> None:
        """
        Neither what it asked, nor its address when it is too slow.
        """
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for octets in (b"", b"GET /sec", GET, b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1" + HOST * 2 + b"\r\n\r\n"):
            client = self.connect()
            client.protocol.dataReceived(octets)
            self.clock.pump((REQUEST_TIMEOUT, WRITE_TIMEOUT, IDLE_TIMEOUT))
            self.assertTrue(client.disconnected)
            self.assertNotIn(b"\r\nServer:", client.value())
        self.assertEqual([], [formatEvent(event) for event in events])

    def test_client_that_does_not_read_gets_no_further_responses(self) -> None:
        """
        However many requests it has sent at once; twisted.web would go on with what was read.
        """
        client = self.connect()
        write, client.write = client.write, lambda data: (write(data), client.protocol.pauseProducing())[0]  # type: ignore[method-assign]
        client.protocol.dataReceived(GET * 10 + b"x" * MAX_HEAD)
        self.assertEqual((1, "paused"), (len(self.requests), client.producerState))
        self.clock.advance(WRITE_TIMEOUT)
        self.assertEqual((1, True), (len(self.requests), client.disconnected))
        self.assertEqual([], self.clock.getDelayedCalls())
