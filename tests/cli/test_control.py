"""
What is said to a running dotproxy, and how its answers are shown.
"""

import sys
from io import StringIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli import control
from dotproxy.telemetry.plural import pluralized
from tests.config.test_schema import folder

_CACHE = {
    "entries": 1,
    "octets": 100,
    "evicted": 0,
    "hit_rate": None,
    "memo": 0,
    "fresh": 0,
    "stale": 0,
    "joined": 0,
    "missed": 0,
}


class ControlTests(SynchronousTestCase):
    """
    The commands, with canned answers.
    """

    def told(self, answer: Any, *words: str) -> str:
        """
        What a command prints of an answer.
        """
        out = StringIO()
        self.patch(sys, "stdout", out)
        self.patch(control, "_request", lambda *given: answer)
        self.assertEqual(0, control.main(words[0], words[1:]))
        return out.getvalue()

    def test_counts_have_singular_and_plural(self) -> None:
        """
        One answer, two answers.
        """
        for number, told in ((0, "0 responses flushed\n"), (1, "1 response flushed\n"), (2, "2 responses flushed\n")):
            self.assertEqual(told, self.told({"flushed": number}, "cache", "flush"))
        self.assertIn("cache: 1 answer, 0.0 MB", self.told({"cache": _CACHE}, "cache", "stats"))
        self.assertEqual(["1 day", "7 days"], [pluralized(number, "day") for number in (1, 7)])

    def test_only_the_socket_setting_is_read(self) -> None:
        """
        Of the configuration nothing else is read: the user who asks need not be able to use the rest of it.
        """
        here = folder(self)
        path = here / "dotproxy.toml"
        path.write_text(f'admin_socket = "{here}/admin"\ncache_file = "{here}/none/cache"\nca_file = "{here}/none"\n')
        err = StringIO()
        self.patch(sys, "stderr", err)
        self.assertEqual(1, control.main("status", ["--config", str(path)]))
        self.assertEqual(f"dotproxy status: {here}/admin: No such file or directory\n", err.getvalue())
