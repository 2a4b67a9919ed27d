"""
The admin address and the admin socket: metrics, health and status over HTTP; commands over the UNIX socket only.

Decides paths, status codes and access.  Every client that reaches the TCP port may read, except a foreign web page
(``hosts``); commands need the socket, which only its owner and root may use.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint, ISystemHandle, ITransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from dotproxy.service.admin.http import MAX_BODY, HttpFactory, Request, Response
from dotproxy.service.admin.shared_render import SharedRender
from dotproxy.telemetry.metrics import CONTENT_TYPE
from dotproxy.wire.printable import printable

log = Logger("dotproxy")

#: Takes the arguments of a request; returns the response as JSON, or a Deferred of it; raises ``ValueError`` to refuse.
Command = Callable[[dict[str, str]], object]

#: Returns why a request is refused, "" if it is accepted.
Guard = Callable[[Request, ITransport], str]

#: Seconds between two renderings.  Metrics take a few milliseconds, during which no query is answered.
_METRICS_INTERVAL = 0.25
_STATUS_INTERVAL = 0.1

_JSON = "application/json"
_MAX_ARGUMENTS = 16

#: pid, uid and gid of a socket's peer (unix(7)).
_CREDENTIALS = struct.Struct("@iII")


class Pages:
    """
    The pages, the same for the address and the socket.

    ``not_ready`` returns why the proxy is not ready, "" if it is.
    """

    def __init__(
        self,
        *,
        metrics: Callable[[], Deferred[bytes]],
        not_ready: Callable[[], Deferred[str]],
        status: Callable[[], Deferred[dict[str, object]]],
        clock: IReactorTime,
    ) -> None:
        self._metrics = SharedRender(metrics, _METRICS_INTERVAL, clock)
        self._not_ready = SharedRender(not_ready, _STATUS_INTERVAL, clock)
        self._status = SharedRender(status, _STATUS_INTERVAL, clock)

    def find(self, path: str) -> Callable[[], Deferred[Response]] | None:
        """
        Return the function that renders a page, None if there is no such page.
        """
        return {
            "/metrics": lambda: self._metrics().addCallback(lambda text: Response(200, text, CONTENT_TYPE)),
            "/healthz": lambda: maybeDeferred(lambda: Response(200, b"ok\n")),
            "/readyz": lambda: self._not_ready().addCallback(_readiness),
            "/status": lambda: self._status().addCallback(lambda status: Response(200, _as_json(status), _JSON)),
        }.get(path)


def _readiness(why: str) -> Response:
    return Response(503, f"not ready: {printable(why)}\n".encode()) if why else Response(200, b"ready\n")


def make_site(
    pages: Pages, guard: Guard, clock: IReactorTime, commands: Mapping[str, Command] | None = None
) -> HttpFactory:
    """
    Return a factory that serves pages, and ``commands`` if there are any, to requests that ``guard`` accepts.
    """
    error = _text_error if commands is None else _json_error

    def respond(request: Request, transport: ITransport) -> Response | Deferred[Response]:
        if why := guard(request, transport):
            return error(421 if commands is None else 403, why)
        command = (commands or {}).get(request.path[1:])
        page = pages.find(request.path)
        if page is None and command is None:
            return error(404, "there is no such page")
        allowed = ("GET", "HEAD") if page is not None else ("POST",)
        if request.method not in allowed:
            return error(405, f"only {' and '.join(allowed)} here")._replace(headers=(("Allow", ", ".join(allowed)),))
        if page is not None:
            return page()
        assert command is not None
        return _run_command(command, request)

    return HttpFactory(respond, clock=clock, error=error, max_body=0 if commands is None else MAX_BODY)


def _run_command(command: Command, request: Request) -> Deferred[Response]:
    """
    Run a command; a ``ValueError`` becomes status 400.
    """

    def refuse(failure: Failure) -> Response:
        failure.trap(ValueError)
        return _json_error(400, failure.getErrorMessage())

    done: Deferred[object] = maybeDeferred(lambda: command(arguments_of(request)))
    return done.addCallbacks(lambda result: Response(200, _as_json(result), _JSON), refuse)


def arguments_of(request: Request) -> dict[str, str]:
    """
    Return the arguments of a command, from query and body; of several with one name the last one counts.

    :raises ValueError: if they are not UTF-8, or too many.
    """
    found: dict[str, str] = {}
    for text in (request.query.encode("ascii"), request.body):
        try:
            pairs = parse_qsl(
                text.decode("utf-8"),
                keep_blank_values=True,
                encoding="utf-8",
                errors="strict",
                max_num_fields=_MAX_ARGUMENTS,
            )
        except UnicodeDecodeError:
            raise ValueError("the arguments are not UTF-8") from None
        found |= dict(pairs)
    return found


def _text_error(code: int, reason: str) -> Response:
    return Response(code, f"{printable(reason)}\n".encode())


def _json_error(code: int, reason: str) -> Response:
    return Response(code, _as_json({"error": reason}), _JSON)


def _as_json(result: object) -> bytes:
    return json.dumps(result).encode() + b"\n"


def peer_guard(request: Request, transport: ITransport) -> str:
    """
    Refuse commands of users other than root and this process's, where the system tells the peer's user (Linux).

    The socket's mode refuses them, too.  If the operator opens that, other users may read but change nothing.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or request.method in ("GET", "HEAD"):
        return ""
    handle = cast(socket.socket, cast(ISystemHandle, transport).getHandle())
    credentials = handle.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return "" if uid in (0, os.geteuid()) else f"only root and user {os.geteuid()} may use commands"


class AdminService(Service):
    """
    Listens at an endpoint; ``path`` is that of a UNIX socket, of which a stale one is removed first.
    """

    def __init__(self, endpoint: IStreamServerEndpoint, site: HttpFactory, where: str, path: str = "") -> None:
        self._endpoint = endpoint
        self._site = site
        self._where = where
        self._path = path
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """
        Listen; if that fails, log it: DNS clients are served all the same.
        """
        super().startService()

        def listening(port: IListeningPort) -> None:
            self._port = port
            log.info("admin on {where}", where=self._where)

        def cannot(failure: Failure) -> None:
            log.error("no admin on {where}: {reason}", where=self._where, reason=_why(failure))

        listen = self._listen_at_path if self._path else self._endpoint.listen
        maybeDeferred(listen, self._site).addCallbacks(listening, cannot)

    def _listen_at_path(self, site: HttpFactory) -> Deferred[IListeningPort]:
        """
        Create the socket with mode 0600: others could connect between its creation and a chmod.
        """
        remove_stale_socket(self._path)
        before = os.umask(0o177)
        try:
            return self._endpoint.listen(site)
        finally:
            os.umask(before)

    def stopService(self) -> Deferred[None] | None:
        """
        Stop listening.
        """
        super().stopService()
        if self._port is None:
            return None
        # Some ports return None, others a Deferred (IListeningPort).
        return maybeDeferred(cast(Callable[[], None], self._port.stopListening))


def _why(failure: Failure) -> str:
    """
    Return why listening failed; Twisted's own text repeats the address, and shows a socket's path as a bytes literal.
    """
    error = failure.value
    cause = error.socketError if isinstance(error, CannotListenError) else error
    return cause.strerror.lower() if isinstance(cause, OSError) and cause.strerror else str(error)


def remove_stale_socket(path: str) -> None:
    """
    Remove a UNIX socket of this user that no process listens on; do nothing if there is none.

    :raises OSError: if something else is at ``path``, which stays.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "what is there is not a socket")
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"the socket there belongs to user {found.st_uid}")
    with socket.socket(socket.AF_UNIX) as probe, suppress(BlockingIOError):  # its backlog is full: a process listens
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
