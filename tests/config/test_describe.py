"""
A configuration, written out.
"""

import re
import tomllib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.describe import describe_changes, effective, example_file, options_table, origin
from dotproxy.config.load import load
from dotproxy.config.schema import BY_KEY, SETTINGS
from dotproxy.testing.certificates import Authority
from tests.config.test_schema import folder


class DescribeTests(SynchronousTestCase):
    """
    What is written can be read.
    """

    def read_back(self, text: str) -> object:
        """
        The configuration in a file with ``text``.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text(text, "utf-8")
        return load({}, {}, str(path)).config

    def test_output_of_check_is_the_same_configuration(self) -> None:
        """
        The output of `dotproxy check` is a configuration file for the same configuration.
        """
        pin = "sxDbe4S5sNkmkqq8b5EdBi7RKtEY5hhR23rHRLMRTMs="
        ca_file = folder(self) / 'a "CA" with\ttab, \\ and ü😀.pem'
        ca_file.write_bytes(Authority().pem)
        given = {"upstream": [f"192.0.2.1#dns.example?pin-sha256={pin}", "quad9"], "query_timeout": ["2.25"]}
        everything = {
            "listen": ["127.0.0.1:53", "[::1]:53"],
            "upstream": ["tls://[2001:db8::1]:8853#dns.example"],
            "ca_file": [str(ca_file)],
            "policy": ["round-robin"],
            "allow_from": ["192.0.2.7/24"],
            "udp_max_size": ["65507"],
            "max_outstanding": ["1000000"],
            "log_level": ["debug"],
        }
        for options in ({}, given, everything):
            loaded = load(options, {})
            self.assertEqual(loaded.config, self.read_back(effective(loaded)))

    def test_sources_are_listed_once(self) -> None:
        """
        The file first, even if nothing of it is in effect; each variable and option once.
        """
        path = folder(self) / "dotproxy.toml"
        path.write_text("padding = 32")
        options = {"listen": ["127.0.0.1:53"], "padding": ["64"]}
        loaded = load(options, {"DOTPROXY_WORKERS": "2"}, str(path))
        self.assertEqual(f"{path}, --listen, --padding, DOTPROXY_WORKERS", origin(loaded, str(path)))
        self.assertEqual("defaults", origin(load({}, {}), None))

    @given(
        st.sampled_from([s.key for s in SETTINGS if s.metavar == "SECONDS" and isinstance(s.parse(s.default), float)]),
        st.floats(2, 59),
    )
    def test_time_is_written_without_rounding(self, key: str, seconds: float) -> None:
        """
        No digit of a time is lost when it is written out.
        """
        options = {"query_timeout": ["60"], key: [repr(seconds)]}
        if key == "query_timeout":
            options["attempt_timeout"] = ["1"]
        line = next(line for line in effective(load(options, {})).splitlines() if line.startswith(f"{key} "))
        self.assertEqual(seconds, BY_KEY[key].parse(line.partition("=")[2].partition("#")[0].strip()))

    def test_each_value_has_its_source(self) -> None:
        """
        Every setting's line ends with its source.
        """
        text = effective(load({"policy": ["random"]}, {"DOTPROXY_TCP_IDLE_TIMEOUT": "7"}))
        self.assertRegex(text, r'policy += "random"  # --policy')
        self.assertRegex(text, r"tcp_idle_timeout += 7  # DOTPROXY_TCP_IDLE_TIMEOUT")
        self.assertRegex(text, r"udp_max_size += 1232  # default")
        self.assertIn("# ca_file is not set", text)

    def test_large_times_and_sizes_have_units_too(self) -> None:
        """
        Digits are the value; larger units stand beside them where digits alone are hard to read.
        """
        loaded = load({"cache_memory": ["1M"], "serve_stale": ["90m"], "cache_max_ttl": ["59"]}, {})
        text = effective(loaded)
        self.assertRegex(text, r"cache_memory += 1048576  # --cache-memory \(1MiB\)\n")
        self.assertRegex(text, r"serve_stale += 5400  # --serve-stale \(1h30m\)\n")
        self.assertRegex(text, r"cache_max_ttl += 59  # --cache-max-ttl\n")
        self.assertRegex(text, r"udp_max_size += 1232  # default\n")
        self.assertEqual(loaded.config, self.read_back(text))

    def test_changes_are_shown_with_units(self) -> None:
        """
        Times and sizes with their units, other numbers in digits, and yes and no for what is that.
        """
        before = load({}, {}).config
        settings = {"serve_stale": "1h", "query_timeout": "2.5", "max_transfers": "1", "cache_min_ttl": "0"}
        after = load({key: [value] for key, value in {**settings, "prefetch": "no"}.items()}, {}).config
        self.assertEqual(
            [
                "query_timeout is 2.5s, was 4s",
                "max_transfers is 1, was 4",
                "serve_stale is 1h, was 1d",
                "prefetch is no, was yes",
            ],
            describe_changes(before, after),
        )
        fewer = load({"max_outstanding": ["1000000"]}, {}).config
        self.assertEqual(["max_outstanding is 1000000, was 16384"], describe_changes(before, fewer))

    def test_example_file_has_the_defaults(self) -> None:
        """
        The example file means the defaults, as it is and with its settings uncommented: every line of it is TOML.
        It names upstreams, since a file that sets nothing is refused.
        """
        text = example_file()
        self.assertEqual(load({}, {}).config, self.read_back(text))
        uncommented = re.sub(r"^#(?=\w+ =)", "", text, flags=re.MULTILINE)
        self.assertEqual({s.key for s in SETTINGS}, set(tomllib.loads(uncommented)))
        self.assertEqual(load({}, {}).config, self.read_back(uncommented))
        for setting in SETTINGS:
            mark = "" if setting.key == "upstream" else "#"
            self.assertIn(f"# {setting.help}\n{mark}{setting.key} = ", text)

    def test_table_has_every_setting(self) -> None:
        """
        One line for each setting, with its option, variable and default.
        """
        lines = options_table().splitlines()
        self.assertEqual([f"`{setting.key}`" for setting in SETTINGS], [line.split(" | ")[0][2:] for line in lines[2:]])
        rows = {line.split(" | ")[0][2:]: line for line in lines[2:]}
        for start in (
            '| `listen` | `-l`, `--listen ADDR:PORT` | `DOTPROXY_LISTEN` | `["127.0.0.1:5300"]` | Addresses of ',
            "| `ca_file` | `-c`, `--ca-file PEM` | `DOTPROXY_CA_FILE` | – | CA certificates to ",
            "| `allow_from` | `--allow-from NETWORK` | `DOTPROXY_ALLOW_FROM` | loopback and private networks | ",
            "| `query_timeout` | `--query-timeout SECONDS` | `DOTPROXY_QUERY_TIMEOUT` | `4` | A client gets ",
            '| `policy` | `--policy NAME` | `DOTPROXY_POLICY` | `"failover"` | Order in which ',
        ):
            self.assertEqual(start, rows[start.split(" | ")[0][2:]][: len(start)])
        self.assertEqual({6}, {line.count("|") for line in lines})
