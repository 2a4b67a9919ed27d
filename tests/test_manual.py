"""
The manual pages say what the code does.
"""

import re
import runpy
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.main import _COMMANDS
from dotproxy.config.schema import SETTINGS

MANUALS = Path(__file__).parent.parent / "docs" / "man"


def plain(page: str) -> str:
    """
    The text of a page, without what is for the formatter.
    """
    return " ".join(re.sub(r"\\(fB|fI|fR|&)", "", page).replace("\\-", "-").replace("\\(aq", "'").split())


class ManualTests(SynchronousTestCase):
    """
    docs/man, against the schema and the commands.
    """

    def test_manual_pages_are_up_to_date(self) -> None:
        """
        Each page is the one that ``make man`` writes now.
        """
        pages = runpy.run_path(str(MANUALS / "make.py"))["pages"]()
        self.assertEqual({"dotproxy.1", "dotproxy.toml.5"}, set(pages))
        for name, text in pages.items():
            self.assertEqual(text, (MANUALS / name).read_text("utf-8"), f"{name}: make man")

    def test_manual_has_every_setting(self) -> None:
        """
        dotproxy(1) has each setting's option, dotproxy.toml(5) its key and variable, both what it does.
        """
        command = plain((MANUALS / "dotproxy.1").read_text("utf-8"))
        file = plain((MANUALS / "dotproxy.toml.5").read_text("utf-8"))
        for setting in SETTINGS:
            self.assertIn(f"--{setting.option} {setting.metavar}", command)
            self.assertIn(setting.key, file)
            self.assertIn(setting.variable, file)
            for page in (command, file):
                self.assertIn(" ".join(setting.help.split()), page, setting.key)

    def test_manual_has_every_command(self) -> None:
        """
        dotproxy(1) has each command.
        """
        page = plain((MANUALS / "dotproxy.1").read_text("utf-8"))
        for name in _COMMANDS:
            self.assertIn(f".B dotproxy {name}", page)

    def test_manual_pages_are_ascii(self) -> None:
        """
        So that every formatter shows the same.
        """
        for path in MANUALS.glob("*.[15]"):
            self.assertTrue(path.read_text("utf-8").isascii(), path.name)
