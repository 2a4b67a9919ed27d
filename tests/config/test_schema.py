"""
Each setting: what it takes, and what it says to what it does not take.
"""

import datetime as dt
import tempfile
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.choices import LogFormat, LogLevel, QueryLogMode, TlsVersion, UdpTruncation
from dotproxy.config.model import Config
from dotproxy.config.schema import BY_KEY, SETTINGS
from dotproxy.config.values import ListenAddress, parse_listen, parse_upstream_value
from dotproxy.policy.access import LimitAction
from dotproxy.policy.selection import Policy
from dotproxy.testing.certificates import Authority
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.wire.rewrite import ClientSubnet


def folder(case: SynchronousTestCase) -> Path:
    """
    A folder that is gone after the test.  (``mktemp`` would leave one in the checkout, under pytest.)
    """
    temporary = tempfile.TemporaryDirectory()
    case.addCleanup(temporary.cleanup)
    return Path(temporary.name)


class SchemaTests(SynchronousTestCase):
    """
    The schema as data.
    """

    def test_settings_and_config_have_the_same_keys(self) -> None:
        """
        Every field of a configuration is a setting, and the other way round.
        """
        self.assertEqual(list(Config.__dataclass_fields__), [setting.key for setting in SETTINGS])

    def test_defaults_are_valid_values(self) -> None:
        """
        Each default is a value its own setting takes.
        """
        for setting in SETTINGS:
            defaults = setting.default if setting.is_list else [setting.default]
            for default in defaults:
                if default is not None:
                    setting.parse(default)

    def test_settings_of_a_few_words_are_enums(self) -> None:
        """
        A setting that takes one of a few words has a member of an enum as its default and its value, and every member
        can be written.
        """
        enums = {
            "tls_minimum": TlsVersion,
            "policy": Policy,
            "not_allowed": LimitAction,
            "over_limit": LimitAction,
            "udp_truncation": UdpTruncation,
            "client_subnet": ClientSubnet,
            "query_log": QueryLogMode,
            "log_format": LogFormat,
            "log_level": LogLevel,
        }
        for setting in SETTINGS:
            enum = enums.get(setting.key)
            self.assertEqual(enum is not None, isinstance(setting.default, StrEnum), setting.key)
            for member in enum or ():
                if (setting.key, member) == ("not_allowed", LimitAction.TRUNCATE):
                    self.assertRaises(ValueError, setting.parse, "truncate")
                else:
                    self.assertIs(member, setting.parse(member.value), setting.key)

    def test_options_and_variables_follow_the_key(self) -> None:
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

    def test_listen_address_is_parsed(self) -> None:
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

    def test_ambiguous_ipv6_without_brackets_is_refused(self) -> None:
        """
        IPv6 whose last group may be meant as a port is refused, with how to write either; other IPv6 is an address.
        """
        told = {
            "::1:53": "write [::1]:53 for port 53 of ::1, or [::1:53]:5300 for port 5300 of ::1:53",
            "2001:db8::1:2": "write [2001:db8::1]:2 for port 2 of 2001:db8::1, or [2001:db8::1:2]:5300 for",
            ":::53": "':::53' is not an address to listen on; write [::]:53",
            "2001:db8:1:2:3:4:5:6:53": "write [2001:db8:1:2:3:4:5:6]:53",
        }
        for text, right in told.items():
            self.assertIn(right, str(self.assertRaises(ValueError, parse_listen, text)))
        self.assertIn("[::1:53]:53 for", str(self.assertRaises(ValueError, parse_listen, "::1:53", 53)))
        for text in ("::1", "2001:db8::53", "2001:db8:1:2:3:4:5:6", "fe80::a:b", "fe80::1%eth0"):
            self.assertEqual(ListenAddress(text, 5300), parse_listen(text))
            self.assertEqual(ListenAddress(text, 53), parse_listen(f"[{text}]:53"))

    def test_upstream_table_has_the_parts_of_a_spec(self) -> None:
        """
        A table has the parts of a SPEC under their names; one pin may stand without a list.
        """
        pin = "sxDbe4S5sNkmkqq8b5EdBi7RKtEY5hhR23rHRLMRTMs="
        table = {"address": "192.0.2.1", "port": 8853, "name": "dns.example", "pin_sha256": pin}
        upstream = parse_upstream_value(table)
        self.assertEqual(((("192.0.2.1", 8853),), "dns.example"), (upstream.addresses, upstream.name))
        self.assertEqual(upstream, parse_upstream_value({**table, "pin_sha256": [pin]}))
        self.assertEqual(UpstreamAddress((("::1", 853),)), parse_upstream_value({"address": "::1"}))
        with_port = {"address": "192.0.2.1:8853", "name": "dns.example", "pin_sha256": pin}
        self.assertEqual(upstream, parse_upstream_value(with_port))
        self.assertEqual("quad9?weight=3", str(parse_upstream_value({"address": "Quad9", "weight": 3})))

    def test_invalid_values_are_refused_with_what_is_valid(self) -> None:
        """
        What a setting does not take, and what it says would be right.
        """
        here = folder(self)
        (here / "empty.pem").write_bytes(b"")
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
            ("upstream", {"address": "192.0.2.1:853", "port": 853}, "'192.0.2.1:853' has a port already"),
            ("upstream", {"address": "192.0.2.1%a.example", "name": "a.example"}, "has a name already"),
            ("upstream", {"address": "quad9", "port": 853}, "'quad9' is a preset"),
            ("upstream", {"address": "quad9", "name": "a.example"}, "'quad9' is a preset"),
            ("ca_file", str(here / "none.pem"), "cannot be read: no such file"),
            ("ca_file", str(here / "empty.pem"), "holds no PEM certificate"),
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
            ("listen", "127.0.0.1:", "port '' is not a number from 0 to 65535"),
            ("listen", "127.0.0.1:-1", "port '-1' is not a number from 0 to 65535"),
            ("ca_file", str(here), "cannot be read: is a directory"),
            ("ca_file", 7, "7 is not a string"),
            ("policy", ["failover"], "['failover'] is not a string"),
            ("query_timeout", "inf", "'inf' is not a number of seconds from 0.1 to 60"),
            ("query_timeout", [4], "[4] is not a number of seconds from 0.1 to 60"),
            ("query_timeout", 60.1, "60.1 is not a number of seconds from 0.1 to 60"),
            ("udp_max_size", 1232.0, "1232.0 is not a whole number of octets"),
            ("udp_max_size", 65508, "65508 is not a whole number of octets from 512 to 65507"),
            ("udp_max_size", True, "True is not a whole number"),
            ("max_outstanding", 0, "0 is not a whole number from 1 to 1000000"),
        ]
        for key, value, told in mistakes:
            error = self.assertRaises(ValueError, BY_KEY[key].parse, value)
            self.assertIn(told, str(error), (key, value))

    def test_wrong_types_in_tables_are_refused(self) -> None:
        """
        A port that is not a whole number, or pins that are no strings, are mistakes, whatever TOML has there.
        """
        told: dict[str, str] = {}
        tables: list[dict[str, object]] = [
            *({"port": port} for port in (True, 853.7, [853], {"tcp": 853}, dt.date(2026, 1, 1))),
            *({"pin_sha256": pins} for pins in (5, True, [7])),
        ]
        for table in tables:
            try:
                told[str(table)] = f"taken as {parse_upstream_value({'address': '192.0.2.1', **table})}"
            except ValueError:
                continue
            except (TypeError, AttributeError) as error:
                told[str(table)] = repr(error)
        self.assertEqual({}, told)

    def test_huge_number_is_out_of_range(self) -> None:
        """
        A whole number too large for a float is out of range like any other.
        """
        error = self.assertRaises(ValueError, BY_KEY["query_timeout"].parse, 10**400)
        self.assertIn("is not a number of seconds from 0.1 to 60", str(error))

    def test_port_in_other_digits_is_refused(self) -> None:
        """
        A port is written in ASCII digits; others are told what would be right.
        """
        for port in ("²", "٣"):
            error = self.assertRaises(ValueError, parse_listen, f"127.0.0.1:{port}")
            self.assertEqual(f"'127.0.0.1:{port}': port {port!r} is not a number from 0 to 65535", str(error))

    def test_ends_of_a_range_are_valid(self) -> None:
        """
        The ends of a range belong to it.
        """
        for key, low, high in (
            ("query_timeout", 0.1, 60),
            ("attempt_timeout", 0.05, 60),
            ("tcp_idle_timeout", 0.1, 3600),
            ("tcp_max_connections", 1, 65535),
            ("udp_max_size", 512, 65507),
            ("max_outstanding", 1, 1_000_000),
        ):
            self.assertEqual([low, high], [BY_KEY[key].parse(low), BY_KEY[key].parse(str(high))], key)

    def test_values_have_their_types(self) -> None:
        """
        Values come out as what they are.
        """
        here = folder(self)
        (here / "ca.pem").write_bytes(Authority().pem)
        self.assertEqual(here / "ca.pem", BY_KEY["ca_file"].parse(str(here / "ca.pem")))
        self.assertEqual("round_robin", BY_KEY["policy"].parse("round-robin"))
        self.assertEqual(ip_network("10.0.0.0/8"), BY_KEY["allow_from"].parse("10.1.2.3/8"))
        self.assertEqual(2.5, BY_KEY["query_timeout"].parse("2.5"))
        self.assertEqual(4096, BY_KEY["udp_max_size"].parse("4096"))
        self.assertEqual("debug", BY_KEY["log_level"].parse("DEBUG"))

    def test_inaccessible_directory_is_an_error(self) -> None:
        """
        What cannot be looked at is a problem like others, not an exception.
        """

        def refuse(path: Path) -> bool:
            raise PermissionError(13, "Permission denied")

        self.patch(Path, "is_dir", refuse)
        told = str(self.assertRaises(ValueError, BY_KEY["cache_file"].parse, "/var/lib/dotproxy/cache"))
        self.assertEqual("'/var/lib/dotproxy/cache' cannot be looked at: permission denied", told)

    def test_special_name_families_are_parsed(self) -> None:
        """
        Families by their names, however they are spelled, or none; others are told what there is.
        """
        parse = BY_KEY["forward_special"].parse
        self.assertEqual(
            ["home.arpa", "private_reverse", "none"], [parse(n) for n in ("Home.Arpa.", "private-reverse", "none")]
        )
        self.assertEqual(["private_tlds", "corp"], [parse(name) for name in ("private-tlds", "Corp.")])
        self.assertIn("private_tlds", str(self.assertRaises(ValueError, parse, "example")))
        self.assertIn("there are localhost, invalid", str(self.assertRaises(ValueError, parse, "example")))
        self.assertIn("neither yes nor no", str(self.assertRaises(ValueError, BY_KEY["transparent"].parse, "maybe")))
        self.assertEqual([True, True, False], [BY_KEY["transparent"].parse(v) for v in (True, "Yes", "off")])
        self.assertIn("private, off, pass", str(self.assertRaises(ValueError, BY_KEY["client_subnet"].parse, "on")))
        self.assertEqual("pass", BY_KEY["client_subnet"].parse("PASS"))
