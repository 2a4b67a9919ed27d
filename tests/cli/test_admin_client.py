"""
Asking the admin socket, whoever listens on it.
"""

import http.client
import json
import socket
import sys
import time
from io import StringIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli import admin_client, control
from dotproxy.cli.admin_client import MAX_RESPONSE, NotDotproxy, fetch
from dotproxy.cli.doctor import examination
from dotproxy.cli.doctor.checks import as_json, as_text, problem
from dotproxy.cli.doctor.examination import Running
from dotproxy.config.load import load


class Canned(http.client.HTTPConnection):
    """
    A connection on which the answer waits already.
    """

    answer = b""
    is_over = True

    def __init__(self, path: str = "") -> None:
        super().__init__("localhost", timeout=10)

    def connect(self) -> None:
        """
        Connect to what is canned.
        """
        self.sock, self.other = socket.socketpair()
        self.sock.settimeout(10)
        self.other.setblocking(False)
        self.other.send(self.answer)
        if self.is_over:
            self.other.shutdown(socket.SHUT_WR)


def canned(body: bytes, status: bytes = b"200 OK", *, is_over: bool = True) -> type[Canned]:
    """
    A connection with this response.
    """
    answer = b"HTTP/1.1 " + status + b"\r\n\r\n" + body
    return type("One", (Canned,), {"answer": answer, "is_over": is_over})


_UGLY = "x\n\x1b[2J\x9b\u202e"


class FetchTests(SynchronousTestCase):
    """
    One response, from a stranger.
    """

    def test_control_characters_are_escaped(self) -> None:
        """
        In every text of it.
        """
        code, answer = fetch(canned(json.dumps({_UGLY: [_UGLY]}).encode())(), "GET", "/")
        self.assertEqual(200, code)
        ((key, (value,)),) = answer.items()
        self.assertTrue(key.isprintable() and value.isprintable())

    def test_responses_of_other_programs_are_one_error_line(self) -> None:
        """
        No HTTP, no JSON, no object, a depth or a number that no parser takes: one line, that can be printed.
        """
        for connection in (
            type("One", (Canned,), {"answer": b""})(),
            type("One", (Canned,), {"answer": b"SSH-2.0-OpenSSH_9.2\x1b[2J\r\n"})(),
            type("One", (Canned,), {"answer": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n"})(),
            canned(b"")(),
            canned(b"\xff\x1b[2J")(),
            canned(b"[1]")(),
            canned(b"[" * 50_000)(),
            canned(b'{"a": ' + b"1" * 5000 + b"}")(),
        ):
            error = self.assertRaises(NotDotproxy, fetch, connection, "GET", "/")
            self.assertTrue(str(error).isprintable())

    def test_response_size_is_limited(self) -> None:
        """
        So many octets, and no more.
        """
        self.patch(admin_client, "MAX_RESPONSE", 1000)
        self.assertRaises(NotDotproxy, fetch, canned(b'"' + b"x" * 1000 + b'"')(), "GET", "/")
        self.assertGreater(MAX_RESPONSE, 1 << 20)

    def test_whole_request_has_a_deadline(self) -> None:
        """
        Counted from the beginning, not from the last octet.
        """
        for body in (b"", b'{"a": '):
            connection = canned(body, b"200 OK\r\nContent-Length: 100", is_over=False)()
            began = time.monotonic()
            self.assertRaises((OSError, NotDotproxy), fetch, connection, "GET", "/", None, 0.05)
            self.assertLess(time.monotonic() - began, 5)  # the socket's own timeout is 10 s


class CommandTests(SynchronousTestCase):
    """
    What the commands make of it.
    """

    def told(self, connection: type[Canned], *words: str) -> tuple[int, str]:
        """
        The exit code, and what is printed.
        """
        out = StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", out)
        self.patch(control, "UnixConnection", connection)
        return control.main(words[0], [*words[1:], "--socket", "x"]), out.getvalue()

    def test_response_of_another_program_is_exit_code_1(self) -> None:
        """
        One line, and exit code 1.
        """
        full: dict[str, Any] = {"version": 1, "seconds": "x", "ready": 1, "upstreams": {}, "cache": []}
        for answer in ({}, full, {"version": "1", "seconds": 1e400}, {"cache": {"entries": "x"}}, {"changes": 3}):
            body = json.dumps(answer).encode()
            for words in (("status",), ("cache", "stats"), ("cache", "flush"), ("reload",)):
                code, text = self.told(canned(body), *words)
                self.assertEqual((1, 1), (code, len(text.splitlines())), (answer, words, text))

    def test_command_output_has_no_control_characters(self) -> None:
        """
        Neither from an error nor from what it tells.
        """
        for connection, words in (
            (canned(json.dumps({"error": _UGLY}).encode(), b"400 No"), ("log", "debug")),
            (canned(json.dumps({"changes": [_UGLY]}).encode()), ("reload",)),
            (canned(json.dumps({_UGLY: _UGLY}).encode()), ("status", "--json")),
            (canned(b"{}", b"500 \x1b[2J"), ("drain",)),
        ):
            _, text = self.told(connection, *words)
            self.assertTrue(text.replace("\n", "").isprintable(), text)

    def test_upstream_error_in_status_is_escaped(self) -> None:
        """
        As a hostile certificate would have it.
        """
        one = dict.fromkeys(
            ("p50_ms", "p95_ms", "resumed", "certificate_days_left", "certificate_expires"), None
        ) | dict.fromkeys(("answers", "failures", "outstanding", "connections_opened", "failed_connections"), 0)
        one |= {"retries": 0, "failed_attempts": 1, "down_seconds": 1.0, "down_since": "2026", "error": _UGLY}
        one |= {"name": "u", "state": "down"}
        status = {
            "version": "1",
            "seconds": 1,
            "ready": False,
            "not_ready": _UGLY,
            "listening": [],
            "listening_tls": [],
            "answers": 0,
        }
        status |= {"queries_per_second": None, "outstanding": 0, "plaintext_queries": {}, "workers": []}
        cache = dict.fromkeys(("entries", "octets", "evicted", "memo", "fresh", "stale", "joined", "missed"), 0)
        status |= {"worker_restarts": 0, "cache": {**cache, "hit_rate": None}, "upstreams": [one]}
        code, text = self.told(canned(json.dumps(status).encode()), "status")
        self.assertEqual(0, code)
        self.assertIn("x\\n\\x1b[2J", text)
        self.assertTrue(text.replace("\n", "").isprintable(), text)

    def test_doctor_rejects_a_malformed_status(self) -> None:
        """
        What has not a status's form is none.
        """
        config = load({}, {}).config
        good = {"answers": 1, "listening": ["127.0.0.1:53", "[::1]:53"], "plaintext_queries": {"upstream": 0}}
        for answer, is_status in (
            (good, True),
            ({}, False),
            ({**good, "answers": "1"}, False),
            ({**good, "listening": ["127.0.0.1:53\n"]}, False),
            ({**good, "listening": [[1]]}, False),
            ({**good, "listening": 7}, False),
            ({**good, "plaintext_queries": ["x"]}, False),
            ({**good, "plaintext_queries": {"upstream": "many"}}, False),
        ):
            self.patch(examination, "UnixConnection", canned(json.dumps(answer).encode()))
            self.assertEqual(is_status, Running(config, "x").status() is not None, answer)

    def test_doctor_checks_are_escaped(self) -> None:
        """
        What the doctor found may quote a certificate.
        """
        checks = [problem("upstream", _UGLY, "advice")]
        self.assertTrue(as_text(checks).replace("\n", "").isprintable())
        self.assertTrue(as_json(checks).replace("\n", "").isprintable())
