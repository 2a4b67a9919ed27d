"""
The settings of DNS over TLS for clients.
"""

from datetime import timedelta

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.describe import as_started, describe_changes, effective
from dotproxy.config.load import load, load_text
from dotproxy.errors import ConfigError
from dotproxy.testing.certificates import Authority
from tests.config.test_schema import folder

AUTHORITY = Authority()
ISSUED = AUTHORITY.issue(["dot.test"])


class ServedTlsTests(SynchronousTestCase):
    """
    What goes together.
    """

    def setUp(self) -> None:
        """
        A certificate and its key.
        """
        self.folder = folder(self)
        certificate, key = ISSUED.write(self.folder, "dot")
        self.given = {"listen_tls": ["127.0.0.1"], "tls_certificate": [str(certificate)], "tls_key": [str(key)]}

    def problems(self, **changes: list[str] | None) -> list[str]:
        """
        What is said of them, changed.
        """
        given = {key: value for key, value in {**self.given, **changes}.items() if value is not None}
        return self.assertRaises(ConfigError, load, given, {}).problems

    def test_tls_listener_has_port_853_by_default(self) -> None:
        """
        The port is 853 unless given; what is written out is read as the same.
        """
        loaded = load({**self.given, "listen_tls": ["127.0.0.1", "[::1]:8853"]}, {})
        self.assertEqual(["127.0.0.1:853", "[::1]:8853"], [str(one) for one in loaded.config.listen_tls])
        self.assertEqual((), loaded.warnings)
        self.assertEqual(loaded.config, load_text(effective(loaded)).config)
        self.assertEqual((), load({}, {}).config.listen_tls)

    def test_missing_file_or_listener_is_an_error(self) -> None:
        """
        A listener needs both files, and a file a listener.
        """
        self.assertEqual(
            ["listen_tls (--listen-tls): needs tls_certificate", "listen_tls (--listen-tls): needs tls_key"],
            self.problems(tls_certificate=None, tls_key=None),
        )
        self.assertEqual(["listen_tls (--listen-tls): needs tls_key"], self.problems(tls_key=None))
        self.assertEqual(
            [
                "tls_certificate (--tls-certificate): is of no use without listen_tls",
                "tls_key (--tls-key): is of no use without listen_tls",
            ],
            self.problems(listen_tls=None),
        )

    def test_unusable_file_is_an_error(self) -> None:
        """
        A file that cannot be used is named, with its setting and what is wrong.
        """
        _, other = AUTHORITY.issue(["dot.test"]).write(self.folder, "other")
        certificate = self.given["tls_certificate"][0]
        self.assertEqual(
            [f"tls_key (--tls-key): is not the key of the first certificate in {certificate}"],
            self.problems(tls_key=[str(other)]),
        )
        self.assertEqual(
            [f"tls_key (--tls-key): '{self.folder}/none' cannot be read: no such file or directory"],
            self.problems(tls_key=[f"{self.folder}/none"]),
        )
        self.assertEqual(
            [f"tls_certificate (--tls-certificate): '{other}' holds no PEM certificate that can be read"],
            self.problems(tls_certificate=[str(other)]),
        )

    def test_shared_port_is_an_error(self) -> None:
        """
        TLS, plain DNS over TCP and HTTP cannot have one port of an address.
        """
        self.assertEqual(
            [
                (
                    "listen_tls (--listen-tls): 127.0.0.1:53 is taken by listen, 0.0.0.0:53 (--listen), for DNS over TCP;"
                    " give another port"
                )
            ],
            self.problems(listen_tls=["127.0.0.1:53"], listen=["0.0.0.0:53"]),
        )
        self.assertEqual(
            [
                (
                    "admin_listen (--admin-listen): 127.0.0.1:853 is taken by listen_tls, 127.0.0.1:853 (--listen-tls);"
                    " give another port"
                )
            ],
            self.problems(admin_listen=["127.0.0.1:853"]),
        )

    def test_readable_key_and_expiring_certificate_are_warned_of(self) -> None:
        """
        A key that everybody can read, and a certificate that ends soon or has ended, can be used; it is told.
        """
        key = self.folder / "dot.key"
        key.chmod(0o644)
        self.assertEqual(
            (f"tls_key (--tls-key): '{key}' can be read by every user; chmod o-r protects it",),
            load(self.given, {}).warnings,
        )
        key.chmod(0o640)
        self.assertEqual((), load(self.given, {}).warnings)
        for ends, told in ((timedelta(days=3), "expires in 3.0 days, on "), (timedelta(hours=-1), "expired on ")):
            AUTHORITY.issue(["dot.test"], ends=ends).write(self.folder, "dot")
            (warning,) = load(self.given, {}).warnings
            self.assertIn(told, warning)

    def test_listeners_change_by_restart_only(self) -> None:
        """
        Where to listen takes a restart; so do the files, where listeners for TLS come or go with them.
        """
        without, with_tls = load({}, {}).config, load(self.given, {}).config
        self.assertIn("listen_tls changes with the next start", describe_changes(without, with_tls))
        self.assertEqual(without, as_started(without, with_tls))
        self.assertEqual(with_tls, as_started(with_tls, without))
        certificate, key = ISSUED.write(self.folder, "moved")
        moved = load({**self.given, "tls_certificate": [str(certificate)], "tls_key": [str(key)]}, {}).config
        self.assertEqual(moved, as_started(with_tls, moved))
