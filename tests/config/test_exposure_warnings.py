"""
What is said of settings that open something.
"""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import load
from dotproxy.errors import ConfigError
from dotproxy.testing.certificates import Authority
from tests.config.test_schema import folder


class ExposureTests(SynchronousTestCase):
    """
    Warnings; the configuration can be used all the same.
    """

    def warnings(self, **given: str) -> list[str]:
        """
        What is said of these options.
        """
        return list(load({key: [value] for key, value in given.items()}, {}).warnings)

    def test_defaults_have_no_warning(self) -> None:
        """
        Neither do listeners for everybody, with the clients that are served by default.
        """
        for listen in ("127.0.0.1:53", "0.0.0.0:53", "[::]:53", "192.0.2.1:53"):
            self.assertEqual([], self.warnings(listen=listen))

    def test_open_resolver_is_warned_of(self) -> None:
        """
        Everybody, or half of everybody, where not only this machine can ask.
        """
        (warning,) = self.warnings(listen="127.0.0.1:53,0.0.0.0:53", allow_from="10.0.0.0/8,0.0.0.0/0")
        self.assertEqual(
            "allow_from (--allow-from): 0.0.0.0/0 with a listener on 0.0.0.0:53 is an open resolver, which can be abused"
            " for attacks on others; restrict it to the networks of the clients",
            warning,
        )
        for network in ("::/0", "2000::/3", "0.0.0.0/1", "128.0.0.0/1", "64.0.0.0/7"):
            self.assertEqual(1, len(self.warnings(listen="[2001:db8::1]:53", allow_from=network)), network)
        for network in ("203.0.113.0/24", "8.0.0.0/8", "2001:db8::/32", "fc00::/7", "10.0.0.0/8"):
            self.assertEqual([], self.warnings(listen="0.0.0.0:53", allow_from=network), network)
        for listen in ("127.0.0.1:53", "127.0.0.53:53", "[::1]:53"):
            self.assertEqual([], self.warnings(listen=listen, allow_from="0.0.0.0/0"))

    def test_public_admin_address_is_warned_of(self) -> None:
        """
        A private one, or all of them in a container, is right.
        """
        (warning,) = self.warnings(admin_listen="8.8.8.8:9953")
        self.assertIn("admin_listen (--admin-listen): 8.8.8.8:9953 is a public address", warning)
        for admin in ("127.0.0.1:9953", "10.0.0.1:9953", "0.0.0.0:9953", "[::]:9953", "[fd00::1]:9953"):
            self.assertEqual([], self.warnings(admin_listen=admin))

    def test_private_names_sent_to_a_public_service_are_warned_of(self) -> None:
        """
        Sent to a public service; not to a server of the network.
        """
        (warning,) = self.warnings(forward_special="corp,doh_canary,private_reverse")
        self.assertIn("names of this network (corp private_reverse) are sent to cloudflare quad9", warning)
        self.assertEqual([], self.warnings(forward_special="corp", upstream="10.0.0.53#dns.corp.example"))
        self.assertEqual([], self.warnings(forward_special="doh_canary,resolver.arpa"))

    def test_weak_ciphers_are_refused_or_warned_of(self) -> None:
        """
        Such as do not encrypt are refused; a level below all others is warned of.
        """
        for text in ("eNULL", "ALL:COMPLEMENTOFALL:@SECLEVEL=0", "NULL-SHA256"):
            (problem,) = self.assertRaises(ConfigError, load, {"tls_ciphers": [text]}, {}).problems
            self.assertIn("which does not encrypt; add :!eNULL", problem)
        (warning,) = self.warnings(tls_ciphers="ECDHE+AESGCM:@SECLEVEL=0")
        self.assertIn("tls_ciphers (--tls-ciphers): @SECLEVEL=0 accepts", warning)
        self.assertEqual([], self.warnings(tls_ciphers="ECDHE+AESGCM:ECDHE+CHACHA20"))

    def test_world_writable_files_are_warned_of(self) -> None:
        """
        The configuration, the CAs, and the directory of files that are replaced.
        """
        where = folder(self)
        authority = Authority()
        certificate, key = authority.issue(["client.test"]).write(where, "one")
        file = where / "dotproxy.toml"
        file.write_text(
            f'client_certificate = "{certificate}"\nclient_key = "{key}"\nca_file = "{certificate}"\nupstream = "quad9"\n'
        )
        kept = where / "kept"
        kept.mkdir()

        def said(cache_file: Path) -> list[str]:
            return list(load({"cache_file": [str(cache_file)]}, {}, str(file)).warnings)

        key.chmod(0o600)
        self.assertEqual([], said(kept / "cache"))
        kept.chmod(0o1777)  # as /tmp: nobody can replace what is another's
        self.assertEqual([], said(kept / "cache"))
        kept.chmod(0o777)
        for path, mode in ((file, 0o666), (certificate, 0o646), (key, 0o644)):
            path.chmod(mode)
        self.assertEqual(
            [
                f"client_key ({file}): {key} can be read by every user; chmod 600 {key}",
                f"ca_file ({file}): {certificate} can be written by every user; chmod o-w {certificate}",
                f"cache_file (--cache-file): every user may replace files in {kept}; use a directory of dotproxy's own",
                f"config ({file}): {file} can be written by every user; chmod o-w {file}",
            ],
            said(kept / "cache"),
        )
