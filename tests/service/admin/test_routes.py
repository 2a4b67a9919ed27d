"""
The admin address.
"""

import json
import os
import socket
import stat
import struct
from errno import EACCES, ENOENT
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.admin.http import MAX_BODY, Request, Response
from dotproxy.service.admin.routes import AdminService, Pages, arguments_of, make_site, peer_guard, remove_stale_socket
from tests.config.test_schema import folder


class AdminServiceTests(SynchronousTestCase):
    """
    Serving, or not.
    """

    def test_bind_error_has_the_address_once_and_the_reason(self) -> None:
        """
        The reason is text: where it was to be stands there once, and a path is no Python bytes.
        """
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        errors = (
            (CannotListenError(None, b"/nowhere/adm9", OSError(ENOENT, "No such file or directory")), "no such file"),
            (CannotListenError("", 99, OSError(EACCES, "Permission denied")), "permission denied"),
            (RuntimeError("odd"), "odd"),
        )
        for error, reason in errors:

            class Endpoint:
                def listen(self, site: object, error: Exception = error) -> Deferred[object]:
                    return fail(error)

            AdminService(Endpoint(), None, "/nowhere/adm9").startService()  # type: ignore[arg-type]
            text = formatEvent(events[-1])
            self.assertTrue(text.startswith(f"no admin on /nowhere/adm9: {reason}"), text)
            self.assertNotIn("b'", text)
            self.assertEqual(1, text.count("adm9"))

    def test_socket_is_created_with_its_mode(self) -> None:
        """
        Under a umask that lets nobody else in, which holds for that moment only.
        """
        masks: list[int] = []

        class Endpoint:
            def listen(self, site: object) -> Deferred[object]:
                masks.append(os.umask(0))
                return succeed(None)

        before = os.umask(0o022)
        self.addCleanup(os.umask, before)
        path = folder(self) / "admin"
        AdminService(Endpoint(), None, str(path), str(path)).startService()  # type: ignore[arg-type]
        self.assertEqual([0o177], masks)
        self.assertEqual(0o022, os.umask(0o022))

    def test_other_file_at_the_path_is_kept_and_reported(self) -> None:
        """
        Is not removed, and the reason is told.
        """
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        path = folder(self) / "admin"
        path.write_bytes(b"precious")
        AdminService(None, None, str(path), str(path)).startService()  # type: ignore[arg-type]
        self.assertEqual(f"no admin on {path}: what is there is not a socket", formatEvent(events[-1]))
        self.assertEqual(b"precious", path.read_bytes())


class ClearAwayTests(SynchronousTestCase):
    """
    A socket that was left behind.
    """

    def setUp(self) -> None:
        """
        Where it was.
        """
        self.path = folder(self) / "admin"

    def bound(self, path: Path) -> socket.socket:
        """
        A socket there.
        """
        made = socket.socket(socket.AF_UNIX)
        self.addCleanup(made.close)
        made.bind(str(path))
        return made

    def test_stale_socket_is_removed(self) -> None:
        """
        Nobody listens: it is removed.  Nothing is nothing.
        """
        self.bound(self.path).close()
        remove_stale_socket(str(self.path))
        self.assertFalse(self.path.exists())
        remove_stale_socket(str(self.path))

    def test_socket_with_a_listener_is_kept(self) -> None:
        """
        It stays, even if so many wait that no more can.
        """
        listening = self.bound(self.path)
        listening.listen(0)
        for _ in range(5):
            remove_stale_socket(str(self.path))
        self.assertTrue(stat.S_ISSOCK(self.path.stat().st_mode))

    def test_file_directory_or_link_is_kept(self) -> None:
        """
        A file, a directory, and a link, though it may lead to a socket.
        """
        elsewhere = self.path.with_name("elsewhere")
        self.bound(elsewhere).close()
        for make in (lambda: self.path.write_bytes(b""), self.path.mkdir, lambda: self.path.symlink_to(elsewhere)):
            make()
            self.assertRaises(FileExistsError, remove_stale_socket, str(self.path))
            (self.path.rmdir if self.path.is_dir() else self.path.unlink)()
        self.assertTrue(elsewhere.exists())

    def test_socket_of_another_user_is_kept(self) -> None:
        """
        It stays where it is.
        """
        self.bound(self.path).close()
        self.patch(os, "geteuid", lambda: self.path.stat().st_uid + 1)
        self.assertRaises(PermissionError, remove_stale_socket, str(self.path))
        self.assertTrue(self.path.exists())


class Connected:
    """
    A transport of a socket's, from a user.
    """

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def getHandle(self) -> "Connected":
        """
        Called for the socket.
        """
        return self

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """
        Called for who has connected.
        """
        assert (level, option, size) == (socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.pack("@iII", 1, self.uid, 1)


class SiteTests(SynchronousTestCase):
    """
    What is there, and for whom.
    """

    def setUp(self) -> None:
        """
        Pages and commands.
        """
        self.not_ready = ""
        self.given: list[dict[str, str]] = []
        self.clock = Clock()
        pages = Pages(
            metrics=lambda: succeed(b"metrics"),
            not_ready=lambda: succeed(self.not_ready),
            status=lambda: succeed({"error": "x\n\x1b[2J<script>"}),
            clock=self.clock,
        )
        self.refusal = ""
        self.tcp = make_site(pages, lambda request, transport: self.refusal, self.clock)
        commands = {"do": self.do, "status2": self.do}
        self.unix = make_site(pages, lambda request, transport: self.refusal, self.clock, commands)

    def do(self, given: dict[str, str]) -> dict[str, str]:
        """
        A command.
        """
        self.given.append(given)
        if "bad" in given:
            raise ValueError("it cannot be done")
        return {"done": "yes"}

    def get(self, path: str, method: str = "GET", body: bytes = b"", *, site: Any = None, query: str = "") -> Response:
        """
        A response.
        """
        self.clock.advance(1)
        request = Request(method, path, query, "x", body)
        return self.successResultOf(maybeDeferred((site or self.tcp)._respond, request, None))

    def test_pages_have_their_content_types(self) -> None:
        """
        Each with its type, none of which a browser takes for a page with scripts.
        """
        for path, code, body, kind in (
            ("/metrics", 200, b"metrics", "text/plain; version=0.0.4; charset=utf-8"),
            ("/healthz", 200, b"ok\n", "text/plain; charset=utf-8"),
            ("/readyz", 200, b"ready\n", "text/plain; charset=utf-8"),
            ("/status", 200, b'{"error": "x\\n\\u001b[2J<script>"}\n', "application/json"),
            ("/", 404, b"there is no such page\n", "text/plain; charset=utf-8"),
            ("/metrics/", 404, b"there is no such page\n", "text/plain; charset=utf-8"),
            ("/<script>", 404, b"there is no such page\n", "text/plain; charset=utf-8"),
            ("/do", 404, b"there is no such page\n", "text/plain; charset=utf-8"),
        ):
            self.assertEqual((code, body, kind), self.get(path)[:3], path)

    def test_readiness_text_has_no_control_characters(self) -> None:
        """
        The reason may come from an upstream.
        """
        self.not_ready = "x\n\x1b[2J"
        self.assertEqual((503, b"not ready: x\\n\\x1b[2J\n"), self.get("/readyz")[:2])

    def test_other_methods_are_refused(self) -> None:
        """
        Only those that there are; nothing is done by looking.
        """
        for site, path, method, allowed in (
            (self.tcp, "/metrics", "POST", "GET, HEAD"),
            (self.tcp, "/metrics", "TRACE", "GET, HEAD"),
            (self.unix, "/status", "DELETE", "GET, HEAD"),
            (self.unix, "/do", "GET", "POST"),
            (self.unix, "/do", "HEAD", "POST"),
        ):
            response = self.get(path, method, site=site)
            self.assertEqual((405, (("Allow", allowed),)), (response.code, response.headers))
        self.assertEqual(404, self.get("/do", "POST").code)
        self.assertEqual([], self.given)

    def test_body_is_accepted_over_the_socket_only(self) -> None:
        """
        Only the socket takes any.
        """
        self.assertEqual((0, MAX_BODY), (self.tcp.max_body, self.unix.max_body))

    def test_commands_get_their_arguments_or_400(self) -> None:
        """
        They get their arguments, and what cannot be done is a 400.
        """
        response = self.get("/do", "POST", b"name=%C3%BC.test&empty=&name=last", site=self.unix, query="more=1")
        self.assertEqual((200, {"done": "yes"}), (response.code, json.loads(response.body)))
        self.assertEqual([{"more": "1", "name": "last", "empty": ""}], self.given)
        response = self.get("/do", "POST", b"bad=1", site=self.unix)
        self.assertEqual((400, {"error": "it cannot be done"}), (response.code, json.loads(response.body)))

    def test_malformed_arguments_are_400(self) -> None:
        """
        What is not UTF-8 is a 400 with an error, whether it is escaped or not; so are too many.
        """
        for body, reason in (
            (b"name=\xff", "the arguments are not UTF-8"),
            (b"name=%FF", "the arguments are not UTF-8"),
            (b"\xff=1", "the arguments are not UTF-8"),
            (b"%ff=1", "the arguments are not UTF-8"),
            (b"a=1&" * 40, "Max number of fields exceeded"),
        ):
            response = self.get("/do", "POST", body, site=self.unix)
            self.assertEqual((400, {"error": reason}), (response.code, json.loads(response.body)), body)
        self.assertEqual([], self.given)
        self.assertRaises(ValueError, arguments_of, Request("POST", "/do", "a=%ff", "x"))

    def test_refused_client_gets_421_or_403(self) -> None:
        """
        Gets nothing, whatever is asked for: 421 over TCP, where it is the Host, 403 over the socket, where it is the user.
        """
        self.refusal = "because"
        for path in ("/metrics", "/healthz", "/none", "/do"):
            self.assertEqual((421, b"because\n"), self.get(path)[:2])
            response = self.get(path, "POST", site=self.unix)
            self.assertEqual((403, {"error": "because"}), (response.code, json.loads(response.body)))
        self.assertEqual([], self.given)

    def test_users_may_do_what_their_rights_allow(self) -> None:
        """
        Root, and who runs this, may do what there is; whoever the socket's mode lets in may look.
        """
        request = Request("POST", "/drain", "", "localhost")
        self.patch(os, "geteuid", lambda: 1000)
        self.assertEqual(["", ""], [peer_guard(request, Connected(uid)) for uid in (0, 1000)])
        for uid in (1, 1001, 65534):
            self.assertEqual("only root and user 1000 may use commands", peer_guard(request, Connected(uid)))
            self.assertEqual("", peer_guard(request._replace(method="GET"), Connected(uid)))
        self.patch(socket, "SO_PEERCRED", None)
        self.assertEqual("", peer_guard(request, None))
