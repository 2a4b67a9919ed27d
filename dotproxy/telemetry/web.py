"""
The admin address: metrics, health and status over HTTP, and commands over a socket of this machine's.

Decides paths and status codes.  Whoever can open a TCP port may look; to change something takes the socket, which is
its owner's alone.
"""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from dotproxy.telemetry.metrics import CONTENT_TYPE

log = Logger("dotproxy")

#: From the arguments of a request to what is answered, as JSON; raises ``ValueError`` for what cannot be done.  It, and
#: whatever else is called here, may return a Deferred.
Command = Callable[[dict[str, str]], Any]


class _Page(Resource):
    """
    Something to look at.
    """

    isLeaf = True

    def __init__(self, content_type: str, text: Callable[[], Deferred[tuple[int, bytes]]]) -> None:
        super().__init__()
        self._content_type = content_type
        self._text = text

    def render_GET(self, request: Request) -> Any:
        """
        Return it.
        """
        request.setHeader("Content-Type", self._content_type)
        request.setHeader("Cache-Control", "no-store")
        return _answered(request, self._text())


class _Root(Resource):
    """
    What there is; everything else is not there.
    """

    def getChild(self, path: bytes, request: Request) -> Any:
        """
        Called for what is not there.
        """
        return notFound()


class _Commands(Resource):
    """
    Something to do.
    """

    isLeaf = True

    def __init__(self, command: Command) -> None:
        super().__init__()
        self._command = command

    def render_POST(self, request: Any) -> Any:
        """
        Do it.
        """
        request.setHeader("Content-Type", "application/json")
        given = {key.decode(): values[-1].decode("utf-8", "replace") for key, values in request.args.items()}

        def cannot(failure: Failure) -> tuple[int, bytes]:
            failure.trap(ValueError)
            return 400, _as_json({"error": failure.getErrorMessage()})

        done: Deferred[Any] = maybeDeferred(self._command, given)
        return _answered(request, done.addCallbacks(lambda result: (200, _as_json(result)), cannot))


def _as_json(result: Any) -> bytes:
    return json.dumps(result).encode() + b"\n"


def _answered(request: Any, answer: Deferred[tuple[int, bytes]]) -> Any:
    """
    Answer a request, now or later.
    """
    gone: list[Failure] = []
    request.notifyFinish().addErrback(gone.append)

    def write(result: tuple[int, bytes]) -> None:
        if not gone:
            code, text = result
            request.setResponseCode(code)
            request.setHeader("Content-Length", str(len(text)))
            request.write(text)
            request.finish()

    def failed(failure: Failure) -> None:
        log.failure("while answering the operator", failure)
        write((500, b"something is wrong; the log says what\n"))

    answer.addCallbacks(write, failed)
    return NOT_DONE_YET


class AdminService(Service):
    """
    Serves the operator at an endpoint; ``path`` is its socket's, if it has one, to be cleared away first.
    """

    def __init__(self, endpoint: IStreamServerEndpoint, site: Site, where: str, path: str = "") -> None:
        self._endpoint = endpoint
        self._site = site
        self._where = where
        self._path = path
        self._port: Any = None

    def startService(self) -> None:
        """
        Serve; if that cannot be, say so, and serve clients all the same.
        """
        super().startService()
        if self._path:
            clear_away(self._path)

        def listening(port: Any) -> None:
            self._port = port
            log.info("admin on {where}", where=self._where)

        def cannot(failure: Failure) -> None:
            log.error("no admin on {where}: {reason}", where=self._where, reason=_why(failure))

        self._endpoint.listen(self._site).addCallbacks(listening, cannot)

    def stopService(self) -> Any:
        """
        Serve no more.
        """
        super().stopService()
        return maybeDeferred(self._port.stopListening) if self._port is not None else None


def _why(failure: Failure) -> str:
    """
    Why nobody can listen.  Twisted's text repeats where, and shows a socket's path as Python does octets.
    """
    error = failure.value
    cause = error.socketError if isinstance(error, CannotListenError) else error
    return cause.strerror.lower() if isinstance(cause, OSError) and cause.strerror else str(error)


def clear_away(path: str) -> None:
    """
    Remove a socket that nobody listens on any more.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()


def make_site(
    *,
    metrics: Callable[[], Deferred[bytes]],
    not_ready: Callable[[], Deferred[str]],
    status: Callable[[], Deferred[dict[str, Any]]],
    commands: dict[str, Command] | None = None,
) -> Site:
    """
    Return what is served.

    ``not_ready`` returns why clients cannot expect answers, "" if they can.
    """

    def ready(why: str) -> tuple[int, bytes]:
        return (503, f"not ready: {why}\n".encode()) if why else (200, b"ready\n")

    def shown(state: dict[str, Any]) -> tuple[int, bytes]:
        return 200, _as_json(state)

    root = _Root()
    root.putChild(b"metrics", _Page(CONTENT_TYPE, lambda: metrics().addCallback(lambda text: (200, text))))
    root.putChild(b"healthz", _Page("text/plain", lambda: succeed((200, b"ok\n"))))
    root.putChild(b"readyz", _Page("text/plain", lambda: not_ready().addCallback(ready)))
    root.putChild(b"status", _Page("application/json", lambda: status().addCallback(shown)))
    for name, command in (commands or {}).items():
        root.putChild(name.encode(), _Commands(command))
    site = Site(root)
    site.displayTracebacks = False
    site.noisy = False
    site.log = lambda request: None  # type: ignore[method-assign]  # no client in any log
    return site
