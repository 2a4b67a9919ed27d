"""
HTTP/1.1 for the operator's address: one request at a time, small ones only.

Decides how long a request may take, how many connections there are and how many requests a second, so that whoever can
open the port cannot cost others much.  What a request may be is ``http_request``'s; which paths there are, and who may
ask, is ``web``'s.  No client and nothing a client sent is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from dotproxy.telemetry.http_request import MAX_HEAD, BadRequest, Head, Request, parse_head

log = Logger("dotproxy")

MAX_CONNECTIONS = 64

#: Requests a second over all connections; so many more are answered at once after a quiet time.
RATE = 100.0
BURST = 20.0

#: Seconds: between requests, from a request's first octet to its last, and until a response was read.
IDLE_TIMEOUT = 60.0
REQUEST_TIMEOUT = 10.0
WRITE_TIMEOUT = 10.0

_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)


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


class HttpConnection(Protocol):
    """
    One client.

    Owns: its unread octets (one request's at most), one timer.  Told by: the transport, which says when it has written
    enough for now.  Ends when: the client closes, asks for what is no HTTP, or takes too long.
    """

    transport: Any
    factory: HttpFactory

    def __init__(self) -> None:
        self.state = State.IDLE
        self._received = b""
        self._head: Head | None = None
        self._timer: Any = None
        self._is_blocked = False
        self._has_stopped = False

    def connectionMade(self) -> None:
        """
        Called when there is a client.
        """
        self.factory.connected(self)
        self.transport.registerProducer(self, True)
        self._wait(IDLE_TIMEOUT)

    def dataReceived(self, data: bytes) -> None:
        """
        Called with octets.
        """
        if self.state is State.CLOSING:
            return
        self._received += data
        if self.state is State.ANSWERING:
            if len(self._received) > MAX_HEAD:  # pipelined; read on when this one was answered
                self.transport.pauseProducing()
            return
        self._read()

    def _read(self) -> None:
        """
        Take the next request out of what was received, if it is there.
        """
        if self._is_blocked or not self._received:
            return
        if self.state is State.IDLE:
            self.state = State.READING
            self._wait(REQUEST_TIMEOUT)
        try:
            if self._head is None:
                self._head = self._next_head()
            if self._head is None or len(self._received) < self._head.length:
                return
        except BadRequest as error:
            self._send(self.factory.error(error.code, error.reason), is_last=True)
            return
        head, self._head = self._head, None
        body, self._received = self._received[: head.length], self._received[head.length :]
        self.state = State.ANSWERING
        self._wait(None)
        self.factory.take(self, head.request._replace(body=body), is_last=head.is_last)

    def _next_head(self) -> Head | None:
        octets = self._received
        if octets.startswith(b"\r\n"):  # RFC 9112 section 2.2
            octets = octets[2:]
        end = octets.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(octets) > MAX_HEAD):
            raise BadRequest(431, f"more than {MAX_HEAD} octets of headers")
        if end < 0:
            return None
        self._received = octets[end + 4 :]
        return parse_head(octets[:end], self.factory.max_body)

    def answer(self, response: Response, request: Request, *, is_last: bool) -> None:
        """
        Called with the response to what was asked last.
        """
        if self.state is State.ANSWERING:
            self._send(response, is_last=is_last or self._has_stopped, has_body=request.method != "HEAD")

    def _send(self, response: Response, *, is_last: bool, has_body: bool = True) -> None:
        code, body, content_type, more = response
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            *_ALWAYS,
            *more,
            *([("Connection", "close")] if is_last else []),
        ]
        lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}", *(f"{name}: {value}" for name, value in headers)]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (body if has_body else b""))
        if is_last:
            self._close()
            return
        self.state = State.IDLE
        self._wait(WRITE_TIMEOUT if self._is_blocked else IDLE_TIMEOUT)
        self.factory.is_idle(self)
        self._read_on()

    def _read_on(self) -> None:
        """
        Take what was received, and more of it unless enough waits already.
        """
        if not self._is_blocked:
            self._read()
            if len(self._received) <= MAX_HEAD and not self._is_blocked:
                self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """
        Called when the client does not read what it was sent: no more is read of it meanwhile.
        """
        self._is_blocked = True
        self.transport.pauseProducing()
        if self.state is State.IDLE:
            self._wait(WRITE_TIMEOUT)

    def resumeProducing(self) -> None:
        """
        Called when it has read it.
        """
        self._is_blocked = False
        if self.state is State.IDLE:
            self._wait(IDLE_TIMEOUT)
            self._read_on()

    def stopProducing(self) -> None:
        """
        Called when the connection has ended.
        """

    def stop(self) -> None:
        """
        End it, after the response it waits for.
        """
        self._has_stopped = True
        if self.state is State.IDLE:
            self._close()
        elif self.state is State.READING:
            self.abort()

    def abort(self) -> None:
        """
        End it at once.
        """
        self.transport.abortConnection()

    def _close(self) -> None:
        """
        End it when the client has read what it was sent; to close at once, with octets unread, could take that away.
        """
        self.state = State.CLOSING
        self._received = b""
        self._wait(WRITE_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Called when it has ended.
        """
        self.state = State.CLOSING
        self._wait(None)
        self.factory.lost(self)

    def _wait(self, seconds: float | None) -> None:
        """
        Give the client so long from now.
        """
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if seconds is None else self.factory.clock.callLater(seconds, self.abort)


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

    def connected(self, connection: HttpConnection) -> None:
        """
        Called with a new connection; one that waits for a request, the longest, or else the oldest, makes room for it.
        """
        if len(self.connections) >= MAX_CONNECTIONS:
            others = self.connections
            waiting = (one for one in others if one.state is not State.ANSWERING)
            oldest = next(waiting, None) or next(iter(others))
            del self.connections[oldest]
            oldest.abort()
        self.connections[connection] = None

    def is_idle(self, connection: HttpConnection) -> None:
        """
        Called when a connection was sent a response.
        """
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None

    def lost(self, connection: HttpConnection) -> None:
        """
        Called when a connection has ended.
        """
        self.connections.pop(connection, None)

    def take(self, connection: HttpConnection, request: Request, *, is_last: bool) -> None:
        """
        Answer a request, when its turn has come.
        """
        now = self.clock.seconds()
        self._next_at = max(self._next_at, now - BURST / RATE) + 1 / RATE
        if self._next_at <= now:
            self._answer(connection, request, is_last=is_last)
        else:
            self.clock.callLater(self._next_at - now, partial(self._answer, connection, request, is_last=is_last))

    def _answer(self, connection: HttpConnection, request: Request, *, is_last: bool) -> None:
        if connection.state is not State.ANSWERING:  # it has ended meanwhile
            return
        done: Deferred[Response] = maybeDeferred(self._respond, request, connection.transport)

        def failed(failure: Failure) -> Response:
            log.failure("while answering the operator", failure)
            return self.error(500, "something is wrong; the log says what")

        done.addErrback(failed)
        done.addCallback(lambda response: connection.answer(response, request, is_last=is_last))
        done.addErrback(lambda failure: log.failure("while answering the operator", failure))

    def stopFactory(self) -> None:
        """
        Called when nobody listens any more.
        """
        for connection in list(self.connections):
            connection.stop()
