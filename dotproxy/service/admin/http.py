"""
HTTP/1.1 for the admin address: twisted.web with bounds.

Decides how large a request may be, how long it may take, how many connections there are and how many requests a second,
so that a client of the open port costs others little.  twisted.web parses; which paths there are, and who may ask, is
``web``'s.  No client and nothing a client sent is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
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

#: Requests a second over all connections; so many more are answered at once after a quiet time.
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
    What was asked; ``host`` is None if an HTTP/1.0 client sent no Host.
    """

    method: str
    path: str
    query: str
    host: str | None
    body: bytes = b""


class Response(NamedTuple):
    """
    What is answered.
    """

    code: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class State(Enum):
    """
    What a connection does.
    """

    IDLE = "idle"  #: nothing of a request has come
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
        Called when all headers were received; nobody needs cookies, and 8 KiB of them take milliseconds.
        """

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        Called when all of it was received.
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
    One client: twisted.web's parser, with a timer for whole requests, and nothing read while it does not read.

    Owns: its unread octets, one timer.  Ends when: the client closes, sends what is no HTTP, or takes too long.
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
        What was received and is not parsed yet.
        """
        return b"".join((*self._dataBuffer, self._buffer))

    def connectionMade(self) -> None:
        """
        Called when there is a client.
        """
        super().connectionMade()
        self.callLater = self.factory.clock.callLater  # type: ignore[method-assign]  # as HTTPFactory does
        self.factory.connected(self)
        self.setTimeout(IDLE_TIMEOUT)

    def resetTimeout(self) -> None:
        """
        Called with each octet, which gives no more time.
        """

    def timeoutConnection(self) -> None:
        """
        End it at once; called when the time is up.  twisted.web's logs the client's address.
        """
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """
        Called with octets.
        """
        if self.state is State.CLOSING:
            return
        if self.state is State.IDLE:
            self.state = State.READING
            self.setTimeout(REQUEST_TIMEOUT)
        super().dataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        Called with a line of more than ``MAX_HEAD`` octets.
        """
        self.refuse(431, f"more than {MAX_HEAD} octets of headers")

    def headerReceived(self, line: bytes) -> bool:
        """
        Called with a header; return whether it is one.
        """
        try:
            return bool(super().headerReceived(line))
        except ValueError:  # a Content-Length of more digits than Python converts
            self.refuse(400, "not a Content-Length")
            return False

    def allHeadersReceived(self) -> None:
        """
        Called before the body, for which twisted.web would make a file.
        """
        if self.requests[-1].requestHeaders.hasHeader(b"transfer-encoding"):
            self.refuse(411, "a body must have a Content-Length")
        elif (self.length or 0) > self.factory.max_body:
            self.refuse(413, f"a body of more than {self.factory.max_body} octets")
        else:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """
        Called with the end of a request, even of one that was refused.
        """
        if self.state is not State.CLOSING:
            self.state = State.ANSWERING
            self.setTimeout(None)
            super().allContentReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """
        Called with what is no HTTP; twisted.web's own response has neither headers nor a reason.
        """
        if self._receivedHeaderSize > MAX_HEAD or self._receivedHeaderCount > MAX_HEADERS:
            self.refuse(431, f"more than {MAX_HEAD} octets of headers, or {MAX_HEADERS} of them")
        else:
            self.refuse(400, "not a request that is understood")

    def refuse(self, code: int, reason: str) -> None:
        """
        Answer that it is no request, and close.
        """
        self.persistent = False
        self.requests = self.requests[:1] or [self.requestFactory(self)]
        self.requests[0].answer(self.factory.error(code, reason))

    def requestDone(self, request: HttpRequest) -> None:
        """
        Called when a response was sent.
        """
        self.state = State.IDLE
        self.setTimeout(WRITE_TIMEOUT if self._is_blocked else IDLE_TIMEOUT)
        self.factory.is_idle(self)
        super().requestDone(request)

    def pauseProducing(self) -> None:
        """
        Called when the client does not read what it was sent.  twisted.web would read and answer more requests.
        """
        super().pauseProducing()
        self._is_blocked = self.paused = True
        self.transport.pauseProducing()
        if self.state is State.IDLE:
            self.setTimeout(WRITE_TIMEOUT)

    def resumeProducing(self) -> None:
        """
        Called when it has read it; parse what was received before.
        """
        self._is_blocked = self.paused = False
        if self.state is State.IDLE:
            self.setTimeout(IDLE_TIMEOUT)
        super().resumeProducing()
        super().dataReceived(b"")

    def loseConnection(self) -> None:
        """
        End it when the client has read what it was sent; to close at once, with octets unread, could take that away.
        """
        self.state = State.CLOSING
        self.clearLineBuffer()
        self.setTimeout(WRITE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def stop(self) -> None:
        """
        End it, after the response it waits for.
        """
        self.persistent = False
        if self.state is State.IDLE:
            self.loseConnection()
        elif self.state is State.READING:
            self.timeoutConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Called when it has ended.
        """
        self.state = State.CLOSING
        super().connectionLost(reason)
        self.factory.connections.pop(self, None)


class HttpFactory(ServerFactory):
    """
    Connections, and the pace of their requests.

    ``respond`` returns the response to a request, or a Deferred of it; ``error`` the response that says what is wrong.
    """

    protocol: Any = HttpConnection
    noisy = False

    def __init__(
        self,
        respond: Callable[[Request, Any], Any],
        *,
        clock: IReactorTime,
        error: Callable[[int, str], Response],
        max_body: int = 0,
    ) -> None:
        self._respond = respond
        self.clock: Any = clock
        self.error = error
        self.max_body = max_body
        #: Those that have waited for a request the longest come first.
        self.connections: dict[HttpConnection, None] = {}
        self._next_at = float("-inf")

    def log(self, request: HttpRequest) -> None:
        """
        Called with each request that was answered; none is logged.
        """

    def connected(self, connection: HttpConnection) -> None:
        """
        Called with a new connection; one that waits for a request, the longest, or else the oldest, makes room for it.
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
        Called when a connection was sent a response.
        """
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None

    def take(self, request: HttpRequest, asked: Request) -> None:
        """
        Answer a request, when its turn has come.
        """
        now = self.clock.seconds()
        self._next_at = max(self._next_at, now - BURST / RATE) + 1 / RATE
        if self._next_at <= now:
            self._answer(request, asked)
        else:
            self.clock.callLater(self._next_at - now, self._answer, request, asked)

    def _answer(self, request: HttpRequest, asked: Request) -> None:
        if request.channel is None:  # the connection has ended meanwhile
            return
        done: Deferred[Response] = maybeDeferred(self._respond, asked, request.transport)

        def failed(failure: Failure) -> Response:
            log.failure("while answering the operator", failure)
            return self.error(500, "something is wrong; the log says what")

        done.addErrback(failed).addCallback(request.answer)
        done.addErrback(lambda failure: log.failure("while answering the operator", failure))

    def stopFactory(self) -> None:
        """
        Called when nobody listens any more.
        """
        for connection in list(self.connections):
            connection.stop()
