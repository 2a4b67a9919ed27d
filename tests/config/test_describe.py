"""
A configuration, written out.
"""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.describe import effective, example_file, options_table
from dotproxy.config.load import load
from dotproxy.config.schema import SETTINGS


class DescribeTests(SynchronousTestCase):
    """
    What is written can be read.
    """

    def read_back(self, text: str) -> object:
        """
        The configuration in a file with ``text``.
        """
        path = Path(self.mktemp())
        path.write_text(text, "utf-8")
        return load({}, {}, str(path)).config

    def test_what_is_in_effect_means_the_same_when_read_back(self) -> None:
        """
        The output of `dotproxy check` is a configuration file for the same configuration.
        """
        pin = "sxDbe4S5sNkmkqq8b5EdBi7RKtEY5hhR23rHRLMRTMs="
        given = {"upstream": [f"192.0.2.1#dns.example?pin-sha256={pin}", "quad9"], "query_timeout": ["2.25"]}
        for options in ({}, given):
            loaded = load(options, {})
            self.assertEqual(loaded.config, self.read_back(effective(loaded)))

    def test_it_says_where_each_value_came_from(self) -> None:
        """
        Every setting's line ends with its source.
        """
        text = effective(load({"policy": ["random"]}, {"DOTPROXY_TCP_IDLE_TIMEOUT": "7"}))
        self.assertRegex(text, r'policy += "random"  # --policy')
        self.assertRegex(text, r"tcp_idle_timeout += 7  # DOTPROXY_TCP_IDLE_TIMEOUT")
        self.assertRegex(text, r"udp_max_size += 1232  # default")
        self.assertIn("# ca_file is not set", text)

    def test_the_example_is_the_default(self) -> None:
        """
        The example file means the defaults, as it is and with its settings uncommented.
        """
        text = example_file()
        self.assertEqual(load({}, {}).config, self.read_back(text))
        uncommented = re.sub(r"^#(\w+ = \S)", r"\1", text, flags=re.MULTILINE)
        self.assertNotEqual(text, uncommented)
        self.assertEqual(load({}, {}).config, self.read_back(uncommented))

    def test_the_table_has_every_setting(self) -> None:
        """
        One line for each setting, with its option, variable and default.
        """
        lines = options_table().splitlines()
        self.assertEqual(len(SETTINGS) + 2, len(lines))
        self.assertIn("| `listen` | `-l`, `--listen ADDR:PORT` | `DOTPROXY_LISTEN` |", lines[2])
