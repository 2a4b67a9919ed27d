"""
Each setting: what it takes, and what it says to what it does not take.
"""

from ipaddress import ip_network
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.schema import BY_KEY, SETTINGS, Config, ListenAddress, parse_listen, parse_upstream_value
from dotproxy.testing.certificates import Authority
from dotproxy.upstream.address import UpstreamAddress


class SchemaTests(SynchronousTestCase):
    """
    The schema as data.
    """

    def test_settings_and_config_have_the_same_keys(self) -> None:
        """
        Every field of a configuration is a setting, and the other way round.
        """
        self.assertEqual(list(Config.__dataclass_fields__), [setting.key for setting in SETTINGS])

    def test_defaults_are_values(self) -> None:
        """
        Each default is a value its own setting takes.
        """
        for setting in SETTINGS:
            defaults = setting.default if setting.is_list else [setting.default]
            for default in defaults:
                if default is not None:
                    setting.parse(default)

    def test_spellings(self) -> None:
        """
        A key's option and variable are spelled the usual way.
        """
        setting = BY_KEY["tcp_idle_timeout"]
        self.assertEqual(("tcp-idle-timeout", "DOTPROXY_TCP_IDLE_TIMEOUT"), (setting.option, setting.variable))
        shorts = [setting.short for setting in SETTINGS if setting.short]
        self.assertEqual(["l", "u", "c"], shorts)


class ParserTests(SynchronousTestCase):
    """
    Values.
    """

    def test_listen(self) -> None:
        """
        An address, with or without port, IPv6 in brackets if with one.
        """
        expected = {
            "127.0.0.1:53": ListenAddress("127.0.0.1", 53),
            "192.0.2.1": ListenAddress("192.0.2.1", 5300),
            "[::1]:53": ListenAddress("::1", 53),
            "[::1]": ListenAddress("::1", 5300),
            "::": ListenAddress("::", 5300),
            ":53": ListenAddress("127.0.0.1", 53),
            "0.0.0.0:0": ListenAddress("0.0.0.0", 0),
        }
        for text, address in expected.items():
            self.assertEqual(address, parse_listen(text), text)
        self.assertEqual("[::1]:53", str(ListenAddress("::1", 53)))

    def test_upstream_tables(self) -> None:
        """
        A table has the parts of a SPEC under their names; one pin may stand without a list.
        """
        pin = "sxDbe4S5sNkmkqq8b5EdBi7RKtEY5hhR23rHRLMRTMs="
        table = {"address": "192.0.2.1", "port": 8853, "name": "dns.example", "pin_sha256": pin}
        upstream = parse_upstream_value(table)
        self.assertEqual(((("192.0.2.1", 8853),), "dns.example"), (upstream.addresses, upstream.name))
        self.assertEqual(upstream, parse_upstream_value({**table, "pin_sha256": [pin]}))
        self.assertEqual(UpstreamAddress((("::1", 853),)), parse_upstream_value({"address": "::1"}))

    def test_mistakes(self) -> None:
        """
        What a setting does not take, and what it says would be right.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "empty.pem").write_bytes(b"")
        mistakes: list[tuple[str, object, str]] = [
            ("listen", "example.org:53", "write ADDRESS:PORT"),
            ("listen", "127.0.0.1:x", "port 'x' is not a number from 0 to 65535"),
            ("listen", "127.0.0.1:65536", "is not a number from 0 to 65535"),
            ("listen", "[::1]53", "write [IPv6]:PORT"),
            ("listen", "[::1", "write [IPv6]:PORT"),
            ("listen", 53, "53 is not a string"),
            ("upstream", {"address": "192.0.2.1", "host": 1, "cert": 2}, "an upstream has no cert, host"),
            ("upstream", {"name": "dns.example"}, "needs an address"),
            ("upstream", {"address": "192.0.2.1", "name": 7}, "7 is not a string"),
            ("upstream", 9, "9 is not a string"),
            ("ca_file", str(folder / "none.pem"), "cannot be read: no such file"),
            ("ca_file", str(folder / "empty.pem"), "holds no PEM certificate"),
            ("policy", "best", "there are failover, round_robin, random"),
            ("allow_from", "10.0.0.0/99", "write ADDRESS/LENGTH"),
            ("query_timeout", "soon", "is not a number of seconds from 0.1 to 60"),
            ("query_timeout", 0, "from 0.1 to 60"),
            ("query_timeout", "nan", "from 0.1 to 60"),
            ("query_timeout", True, "True is not a number"),
            ("udp_max_size", 511, "is not a whole number of octets from 512 to 65507"),
            ("udp_max_size", "1232.5", "is not a whole number"),
            ("tcp_max_connections", "many", "is not a whole number from 1 to 65535"),
            ("log_level", "loud", "there are info and debug"),
        ]
        for key, value, told in mistakes:
            error = self.assertRaises(ValueError, BY_KEY[key].parse, value)
            self.assertIn(told, str(error), (key, value))

    def test_values(self) -> None:
        """
        Values come out as what they are.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "ca.pem").write_bytes(Authority().pem)
        self.assertEqual(folder / "ca.pem", BY_KEY["ca_file"].parse(str(folder / "ca.pem")))
        self.assertEqual("round_robin", BY_KEY["policy"].parse("round-robin"))
        self.assertEqual(ip_network("10.0.0.0/8"), BY_KEY["allow_from"].parse("10.1.2.3/8"))
        self.assertEqual(2.5, BY_KEY["query_timeout"].parse("2.5"))
        self.assertEqual(4096, BY_KEY["udp_max_size"].parse("4096"))
        self.assertEqual("debug", BY_KEY["log_level"].parse("DEBUG"))
