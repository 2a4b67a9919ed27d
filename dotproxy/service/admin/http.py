"""
HTTP/1.1 for the admin address: twisted.web with bounds.

Decides the largest request, how long one may take, the number of connections and the rate of requests, so that a client
of the open port costs others little.  twisted.web parses; paths and access are ``routes``'s.  No client address and no
octet of a request is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime, ITransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http

log = Logger("dotproxy")

MAX_CONNECTIONS = 64

#: Octets of a request line and its headers, how many headers, and octets of a body where there may be one.
MAX_HEAD = 8192
MAX_HEADERS = 64
MAX_BODY = 4096

#: Requests a second over all connections, and the burst that is answered at once after an idle time.
RATE = 100.0
BURST = 20.0

#: Seconds: between requests, from a request's first octet to its last, and until a response was read.
IDLE_TIMEOUT = 60.0
REQUEST_TIMEOUT = 10.0
WRITE_TIMEOUT = 10.0

_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Request(NamedTuple):
    """
    A request; ``host`` is None if an HTTP/1.0 client sent no Host.
    """

    method: str
    path: str
    query: str
    host: str | None
    body: bytes = b""


class Response(NamedTuple):
    """
    A response.
    """

    code: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class State(Enum):
    """
    The state of a connection.
    """

    IDLE = "idle"  #: no octet of a request has arrived
    READING = "reading"
    ANSWERING = "answering"
    CLOSING = "closing"


class HttpRequest(http.Request):
    """
    One request; twisted.web's without cookies, form fields and multipart bodies.
    """

    channel: Any
    content: Any
    clientproto = b"HTTP/1.1"  # a server answers in its own version (RFC 9110 section 2.5)

    def parseCookies(self) -> None:
        """
        Do nothing: cookies are not used, and parsing 8 KiB of them takes milliseconds; called by twisted.web.
        """

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        Check a whole request and hand it to the factory; called by twisted.web.
        """
        self.method = command
        hosts = self.requestHeaders.getRawHeaders(b"host", [])
        if len(hosts) > 1 or (version == b"HTTP/1.1" and not hosts):  # RFC 9112 section 3.2
            self.channel.refuse(400, f"{len(hosts)} Host headers")
        elif not path.startswith(b"/") or not path.isascii():
            self.channel.refuse(400, "not a path")
        else:
            name, _, query = path.decode("ascii").partition("?")
            host = hosts[0].decode("latin-1") if hosts else None
            body = self.content.getvalue()
            self.channel.factory.take(self, Request(command.decode("ascii"), name, query, host, body))

    def answer(self, response: Response) -> None:
        """
        Send the response, unless the connection has ended.
        """
        if self.channel is None:
            return
        headers = {
            "Date": http.datetimeToString().decode("ascii"),
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            **_ALWAYS,
            **dict(response.headers),
            **({} if self.channel.persistent else {"Connection": "close"}),
        }
        for name, value in headers.items():
            self.setHeader(name, value)
        self.setResponseCode(response.code, HTTPStatus(response.code).phrase.encode())
        self.write(response.body)
        self.finish()


class HttpConnection(http.HTTPChannel):
    """
    One client: twisted.web's parser, with a timeout for whole requests; it reads nothing while the client does not
    read.

    Owns: its unread octets, one timer.  Ends when: the client closes, sends no valid HTTP, or takes too long.
    """

    transport: Any
    factory: HttpFactory
    requestFactory = HttpRequest
    MAX_LENGTH = MAX_HEAD - 2  # of a line, without its end
    totalHeadersSize = MAX_HEAD
    maxHeaders = MAX_HEADERS
    _optimisticEagerReadSize = MAX_HEAD  # of pipelined requests; twisted.web's is 16 KiB

    def __init__(self) -> None:
        super().__init__()
        self.state = State.IDLE
        self._is_blocked = False

    @property
    def _received(self) -> bytes:
        """
        The octets that are not parsed yet.
        """
        return b"".join((*self._dataBuffer, self._buffer))

    def connectionMade(self) -> None:
        """
        Start the idle timeout; called by Twisted.
        """
        super().connectionMade()
        self.callLater = self.factory.clock.callLater  # type: ignore[method-assign]  # as HTTPFactory does
        self.factory.connected(self)
        self.setTimeout(IDLE_TIMEOUT)

    def resetTimeout(self) -> None:
        """
        Do nothing: received octets do not extend the timeout; called by twisted.web.
        """

    def timeoutConnection(self) -> None:
        """
        Abort the connection; called after the timeout.  twisted.web's own method logs the client's address.
        """
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """
        Start the timeout of a request with its first octet; called by Twisted.
        """
        if self.state is State.CLOSING:
            return
        if self.state is State.IDLE:
            self.state = State.READING
            self.setTimeout(REQUEST_TIMEOUT)
        super().dataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        Refuse a line of more than ``MAX_HEAD`` octets; called by twisted.web.
        """
        self.refuse(431, f"more than {MAX_HEAD} octets of headers")

    def headerReceived(self, line: bytes) -> bool:
        """
        Return whether a header line is valid; called by twisted.web.
        """
        try:
            return bool(super().headerReceived(line))
        except ValueError:  # a Content-Length of more digits than Python converts
            self.refuse(400, "not a Content-Length")
            return False

    def allHeadersReceived(self) -> None:
        """
        Refuse a body that is too large or of unknown length; called by twisted.web before it makes a file for it.
        """
        if self.requests[-1].requestHeaders.hasHeader(b"transfer-encoding"):
            self.refuse(411, "a body must have a Content-Length")
        elif (self.length or 0) > self.factory.max_body:
            self.refuse(413, f"a body of more than {self.factory.max_body} octets")
        else:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """
        Go on with a request that was not refused; called by twisted.web at the end of each.
        """
        if self.state is not State.CLOSING:
            self.state = State.ANSWERING
            self.setTimeout(None)
            super().allContentReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """
        Refuse invalid HTTP; twisted.web's own response has neither headers nor a reason.
        """
        if self._receivedHeaderSize > MAX_HEAD or self._receivedHeaderCount > MAX_HEADERS:
            self.refuse(431, f"more than {MAX_HEAD} octets of headers, or {MAX_HEADERS} of them")
        else:
            self.refuse(400, "not a request that is understood")

    def refuse(self, code: int, reason: str) -> None:
        """
        Respond with an error, and close.
        """
        self.persistent = False
        self.requests = self.requests[:1] or [self.requestFactory(self)]
        self.requests[0].answer(self.factory.error(code, reason))

    def requestDone(self, request: HttpRequest) -> None:
        """
        Wait for the next request; called by twisted.web when a response was sent.
        """
        self.state = State.IDLE
        self.setTimeout(WRITE_TIMEOUT if self._is_blocked else IDLE_TIMEOUT)
        self.factory.is_idle(self)
        super().requestDone(request)

    def pauseProducing(self) -> None:
        """
        Stop reading while the client does not read; called by the transport.  twisted.web would go on with requests.
        """
        super().pauseProducing()
        self._is_blocked = self.paused = True
        self.transport.pauseProducing()
        if self.state is State.IDLE:
            self.setTimeout(WRITE_TIMEOUT)

    def resumeProducing(self) -> None:
        """
        Parse what was received before the pause; called by the transport.
        """
        self._is_blocked = self.paused = False
        if self.state is State.IDLE:
            self.setTimeout(IDLE_TIMEOUT)
        super().resumeProducing()
        super().dataReceived(b"")

    def loseConnection(self) -> None:
        """
        Close when the client has read the response: closing at once, with octets unread, could discard it (RST).
        """
        self.state = State.CLOSING
        self.clearLineBuffer()
        self.setTimeout(WRITE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def stop(self) -> None:
        """
        Close, after the response if one is outstanding.
        """
        self.persistent = False
        if self.state is State.IDLE:
            self.loseConnection()
        elif self.state is State.READING:
            self.timeoutConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Leave the factory's table; called by Twisted.
        """
        self.state = State.CLOSING
        super().connectionLost(reason)
        self.factory.connections.pop(self, None)


class HttpFactory(ServerFactory):
    """
    The connections, and the rate limit of their requests.

    ``respond`` returns the response to a request, or a Deferred of it; ``error`` returns an error response.
    """

    protocol: Any = HttpConnection
    noisy = False

    def __init__(
        self,
        respond: Callable[[Request, ITransport], Response | Deferred[Response]],
        *,
        clock: IReactorTime,
        error: Callable[[int, str], Response],
        max_body: int = 0,
    ) -> None:
        self._respond = respond
        self.clock: Any = clock  # twisted.web assigns its callLater, whose type differs from the interface's
        self.error = error
        self.max_body = max_body
        #: Those idle for the longest come first.
        self.connections: dict[HttpConnection, None] = {}
        self._next_at = float("-inf")

    def log(self, request: HttpRequest) -> None:
        """
        Do nothing: requests are not logged; called by twisted.web.
        """

    def connected(self, connection: HttpConnection) -> None:
        """
        Add a connection; at the limit close the one idle for the longest, or else the oldest.
        """
        if len(self.connections) >= MAX_CONNECTIONS:
            others = self.connections
            waiting = (one for one in others if one.state is not State.ANSWERING)
            oldest = next(waiting, None) or next(iter(others))
            del self.connections[oldest]
            oldest.timeoutConnection()
        self.connections[connection] = None

    def is_idle(self, connection: HttpConnection) -> None:
        """
        Move a connection to the end of the table: it waits for its next request.
        """
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None

    def take(self, request: HttpRequest, asked: Request) -> None:
        """
        Respond to a request, later if the rate limit is exceeded.
        """
        now = self.clock.seconds()
        self._next_at = max(self._next_at, now - BURST / RATE) + 1 / RATE
        if self._next_at <= now:
            self._answer(request, asked)
        else:
            self.clock.callLater(self._next_at - now, self._answer, request, asked)

    def _answer(self, request: HttpRequest, asked: Request) -> None:
        if request.channel is None:  # the connection has ended
            return
        done: Deferred[Response] = maybeDeferred(cast(Callable[..., Response], self._respond), asked, request.transport)

        def failed(failure: Failure) -> Response:
            log.failure("an admin request failed", failure)
            return self.error(500, "an internal error; see the log")

        done.addErrback(failed).addCallback(request.answer)
        done.addErrback(lambda failure: log.failure("an admin request failed", failure))

    def stopFactory(self) -> None:
        """
        Close every connection; called by Twisted when the port has stopped listening.
        """
        for connection in list(self.connections):
            connection.stop()
