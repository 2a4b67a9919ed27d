"""
The certificate that clients are shown: read, replaced, and told of.
"""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import load
from dotproxy.config.model import Config
from dotproxy.errors import ConfigError
from dotproxy.service.listener_certificate import CHECK_INTERVAL, ListenerCertificate, read_listener_tls
from dotproxy.service.tls_files import INTERVAL
from dotproxy.testing.certificates import Authority, Issued
from tests.config.test_schema import folder

AUTHORITY = Authority()
OLD, NEW = AUTHORITY.issue(["dot.test"]), AUTHORITY.issue(["dot.test"])


class ListenerCertificateCase(SynchronousTestCase):
    """
    A certificate in files.
    """

    def setUp(self) -> None:
        """
        See what is logged.
        """
        self.folder = folder(self)
        self.clock = Clock()
        self.write(OLD)
        self.lines: list[str] = []

        def observe(event: Any) -> None:
            if event.get("log_namespace") == "dotproxy":
                self.lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def write(self, issued: Issued, *, certificate: bool = True, key: bool = True) -> None:
        """
        Write both files, or one of them.
        """
        if certificate:
            (self.folder / "dot.pem").write_bytes(issued.certificate_pem)
        if key:
            (self.folder / "dot.key").write_bytes(issued.key_pem)
            (self.folder / "dot.key").chmod(0o600)

    def config(self, **more: str) -> Config:
        """
        A configuration that names them.
        """
        options = {
            "listen_tls": ["127.0.0.1:0"],
            "tls_certificate": [str(self.folder / "dot.pem")],
            "tls_key": [str(self.folder / "dot.key")],
            **{key: [value] for key, value in more.items()},
        }
        return load(options, {}).config

    def serve(self, date: float = 0.0, *, is_quiet: bool = False, **more: str) -> ListenerCertificate:
        """
        Have them served.
        """
        served = ListenerCertificate(
            self.config(**more),
            clock=self.clock,
            wall_time=lambda: (date or time.time()) + self.clock.seconds(),
            is_quiet=is_quiet,
        )
        served.startService()
        self.addCleanup(served.stopService)
        return served

    def pass_time(self) -> None:
        """
        Long enough for a change to be noticed.
        """
        self.clock.pump([INTERVAL] * 3)


class ReplacedTests(ListenerCertificateCase):
    """
    Files that change.
    """

    def test_replaced_certificate_and_key_are_used(self) -> None:
        """
        Another certificate with its key is used within a few seconds, and told in a line; no other timer is left.
        """
        served = self.serve()
        before = served.current.context
        self.pass_time()
        self.assertIs(before, served.current.context)
        self.write(NEW)
        self.pass_time()
        self.assertIsNot(before, served.current.context)
        self.assertEqual(
            ["tls_certificate: new contents; tls_key: new contents: new connections of clients get it"], self.lines
        )
        served.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_replaced_directory_link_is_noticed(self) -> None:
        """
        So is what another folder holds, when the link to that is replaced, as Kubernetes does.
        """
        for name, issued in (("first", OLD), ("second", NEW)):
            (self.folder / name).mkdir()
            (self.folder / name / "dot.pem").write_bytes(issued.certificate_pem)
            (self.folder / name / "dot.key").write_bytes(issued.key_pem)
        for name in ("dot.pem", "dot.key"):
            (self.folder / name).unlink()
            (self.folder / name).symlink_to(Path("data") / name)
        (self.folder / "data").symlink_to("first")
        served = self.serve()
        before = served.current.context
        (self.folder / "next").symlink_to("second")
        (self.folder / "next").rename(self.folder / "data")
        self.pass_time()
        self.assertIsNot(before, served.current.context)

    def test_old_pair_is_used_while_only_one_file_is_new(self) -> None:
        """
        While only one of both is new, the old ones are shown, which is told once; then both are new.
        """
        served = self.serve()
        before = served.current.context
        self.write(NEW, key=False)
        self.pass_time()
        self.pass_time()
        self.assertIs(before, served.current.context)
        (line,) = self.lines
        self.assertIn("is not the key of the first certificate in", line)
        self.assertTrue(line.endswith("; its previous contents stay in use"), line)
        self.write(NEW, certificate=False)
        self.pass_time()
        self.assertIsNot(before, served.current.context)
        self.assertEqual(2, len(self.lines))

    def test_incomplete_file_is_not_used(self) -> None:
        """
        Nor is a file used that is cut off anywhere, is gone, or holds something else; each is told in one line.
        """
        served = self.serve()
        before = served.current.context
        whole = NEW.certificate_pem
        for number, pem in enumerate(
            (b"", whole[:-30], whole + OLD.certificate_pem[:300], b"-----BEGIN CERTIFICATE-----")
        ):
            (self.folder / "dot.pem").write_bytes(pem)
            self.pass_time()
            self.assertIs(before, served.current.context)
            self.assertLessEqual(len(self.lines), number + 1)
            self.assertTrue(self.lines[-1].startswith("tls_certificate: '"), (number, self.lines[-1]))
        (self.folder / "dot.pem").unlink()
        self.pass_time()
        self.assertIn("cannot be read: no such file or directory", self.lines[-1])
        self.assertIs(before, served.current.context)
        self.write(NEW)
        self.pass_time()
        self.assertIsNot(before, served.current.context)

    def test_worker_does_not_log_a_change(self) -> None:
        """
        Another process tells of it.
        """
        served = self.serve(is_quiet=True)
        before = served.current.context
        self.write(NEW)
        self.pass_time()
        self.assertIsNot(before, served.current.context)
        self.assertEqual([], self.lines)

    def test_reload_uses_the_configured_files(self) -> None:
        """
        A reload takes what is in other files, and says nothing of contents then; the same contents change nothing, the
        oldest version of TLS does.
        """
        served = self.serve()
        before = served.current.context
        self.assertEqual([], served.replace(self.config(), read_listener_tls(self.config())))
        self.assertIs(before, served.current.context)
        newer = self.config(tls_minimum="1.3")
        self.assertEqual([], served.replace(newer, read_listener_tls(newer)))
        self.assertIsNot(before, served.current.context)
        (self.folder / "ca.pem").write_bytes(AUTHORITY.pem)
        mutual = self.config(tls_client_ca=str(self.folder / "ca.pem"))
        before = served.current.context
        served.replace(mutual, read_listener_tls(mutual))
        self.assertIsNot(before, served.current.context)
        (self.folder / "ca.pem").write_bytes(Authority("other").pem)
        self.pass_time()
        self.assertEqual(["tls_client_ca: new contents: new connections of clients get it"], self.lines)

    def test_every_problem_names_setting_and_file(self) -> None:
        """
        Every problem is told, with the setting and the file.
        """
        config = self.config()
        (self.folder / "dot.pem").write_bytes(b"nothing")
        (self.folder / "dot.key").write_bytes(b"nothing")
        error = self.assertRaises(ConfigError, read_listener_tls, config)
        self.assertEqual(
            [
                f"tls_certificate: '{self.folder}/dot.pem' holds no PEM certificate that can be read",
                f"tls_key: '{self.folder}/dot.key' holds no PEM key that can be read without a passphrase",
            ],
            error.problems,
        )
        error = self.assertRaises(ConfigError, read_listener_tls, load({}, {}).config)
        self.assertEqual(["listen_tls: needs tls_certificate and tls_key"], error.problems)


class ExpiryTests(ListenerCertificateCase):
    """
    A certificate that ends.
    """

    def test_expiry_within_seven_days_is_logged_daily(self) -> None:
        """
        From seven days before its end on it is told of each day, also when it has ended; a new one ends that.
        """
        expires = OLD.certificate.not_valid_after_utc.timestamp()
        served = self.serve(expires - 8.5 * 86400)
        self.assertEqual(expires, served.not_after)
        self.clock.pump([CHECK_INTERVAL] * 24)
        self.assertEqual([], self.lines)
        self.clock.pump([CHECK_INTERVAL] * 24)
        self.assertEqual(1, len(self.lines))
        self.assertIn("expires in 6.5 days, on ", self.lines[0])
        self.clock.pump([CHECK_INTERVAL] * 24 * 7)
        self.assertEqual(8, len(self.lines))
        self.assertIn("expired on ", self.lines[-1])

    def test_expiry_of_a_replacement_is_logged_at_once(self) -> None:
        """
        It is told of at once.
        """
        self.serve()
        self.write(AUTHORITY.issue(["dot.test"], ends=timedelta(days=2)))
        self.pass_time()
        self.assertEqual(2, len(self.lines))
        self.assertIn("expires in ", self.lines[0])

    def test_ticket_keys_change_daily(self) -> None:
        """
        The context is made anew each day, with other keys for tickets.
        """
        served = self.serve()
        before = served.current.context
        self.clock.pump([CHECK_INTERVAL] * 23)
        self.assertIs(before, served.current.context)
        self.clock.pump([CHECK_INTERVAL])
        self.assertIsNot(before, served.current.context)
