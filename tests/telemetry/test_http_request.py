"""
Requests, read.
"""

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.telemetry.http_request import MAX_BODY, MAX_HEADERS, BadRequest, parse_head


class ParseTests(SynchronousTestCase):
    """
    A head is a request, or is refused.
    """

    def test_good_ones(self) -> None:
        """
        As browsers, Prometheus, load balancers and http.client send them.
        """
        head = parse_head(b"GET /flush?name=a%20b HTTP/1.1\r\nHost: x:9953\r\nAccept: */*\r\nX-Empty:", 0)
        self.assertEqual(("GET", "/flush", "name=a%20b", "x:9953", b""), head.request)
        self.assertEqual((0, False), head[1:])
        self.assertEqual(None, parse_head(b"GET /healthz HTTP/1.0", 0).request.host)
        self.assertTrue(parse_head(b"GET / HTTP/1.0", 0).is_last)
        self.assertTrue(parse_head(b"GET / HTTP/1.1\r\nhost:x\r\nCONNECTION: TE, Close", 0).is_last)
        self.assertEqual(5, parse_head(b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length: 5", MAX_BODY).length)

    def refused(self, code: int, octets: bytes, max_body: int = MAX_BODY) -> None:
        """
        It is refused with this status code.
        """
        error = self.assertRaises(BadRequest, parse_head, octets, max_body)
        self.assertEqual(code, error.code, octets)
        self.assertTrue(error.reason.isprintable())

    def test_bad_ones(self) -> None:
        """
        What two programs could read in two ways is no request.
        """
        host = b"\r\nHost: x"
        for first in (
            b"",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/2.0",
            b"GET  / HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"GET http://x/metrics HTTP/1.1",
            b"GET * HTTP/1.1",
            b"get / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET /\xff HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
        ):
            self.refused(400, first + host)
        for header in (
            b"X",
            b" X: folded",
            b"X : y",
            b"X\x00: y",
            b"X: y\nZ: w",
            b"X: y\x00",
            b": y",
            b"Host: y",
            b"Content-Length: -1",
            b"Content-Length: 1_0",
            b"Content-Length: 1\r\nContent-Length: 1",
            b"Content-Length: 99999999999",
            b"Content-Length:",
        ):
            self.refused(400, b"POST / HTTP/1.1" + host + b"\r\n" + header)
        self.refused(400, b"GET / HTTP/1.1")
        self.refused(411, b"POST / HTTP/1.1" + host + b"\r\nTransfer-Encoding: chunked\r\nContent-Length: 1")
        self.refused(413, b"POST / HTTP/1.1" + host + b"\r\nContent-Length: %d" % (MAX_BODY + 1))
        self.refused(413, b"GET / HTTP/1.1" + host + b"\r\nContent-Length: 1", 0)
        self.refused(431, b"GET / HTTP/1.1" + host + b"\r\na: b" * MAX_HEADERS)

    @given(st.binary(max_size=300) | st.text(string.printable).map(str.encode))
    def test_anything(self, octets: bytes) -> None:
        """
        Nothing else is raised.
        """
        for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST /"):
            try:
                head = parse_head(start + octets, MAX_BODY)
            except BadRequest:
                continue
            self.assertLessEqual(head.length, MAX_BODY)
