"""
docs/security.md: what it says is shown is shown, and its numbers are the code's.
"""

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.schema import SETTINGS

TESTS = Path(__file__).parent
TOP = TESTS.parent
PAGE = TOP / "docs" / "security.md"

#: What each setting is by default, as it is used.
DEFAULTS = {one.key: one.default if one.default is None or one.is_list else one.parse(one.default) for one in SETTINGS}

#: Words in code style that are neither settings nor constants nor tests, and what they are.
OTHERS = {
    *("dotproxy", "hash", "clear", "other", "udp://", "transparent"),  # values
    *("openssl verify", "*.co.uk", "make attack"),
    *("pin-sha256", "make flood", "make audit", "make lock"),  # spelled by users
    *("deploy/docker/requirements.lock", "deploy/docker/build-requirements.lock"),
    *("tests/", "tests/test_security_page.py", "downstream.recvmmsg", "forwarding.inflight.InflightQueries"),
}

_NUMBER = re.compile(r"(?<![\w.,])(\d[\d,.]*|an hour|1 day)( MiB| s)? \(`([\w.]+)`\)")
_WORDS = {"an hour": 3600, "1 day": 86400}


def existing_tests() -> set[str]:
    """
    Each test there is, as FILE::NAME.
    """
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def constant(path: str) -> Any:
    """
    What a constant of dotproxy's is, by its path from the package.
    """
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            value: Any = import_module("dotproxy." + ".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            value = getattr(value, name)
        return value
    raise AssertionError(f"there is no {path}")


class SecurityPageTests(SynchronousTestCase):
    """
    The page against the code.
    """

    def setUp(self) -> None:
        """
        Its text.
        """
        self.text = PAGE.read_text("utf-8")

    def test_every_named_test_exists(self) -> None:
        """
        Each that is named exists, and each attacker has some.
        """
        named = re.findall(r"`([\w/]+\.py::\w+)`", self.text)
        self.assertGreater(len(named), 50)
        self.assertEqual(set(), set(named) - existing_tests())
        for section in self.text.split("## Attackers")[1].split("## Limits")[0].split("\n### ")[1:]:
            self.assertIn(".py::", section, section.partition("\n")[0])

    def test_every_number_is_right(self) -> None:
        """
        A number before a setting is its default; before a constant, its value.
        """
        found = _NUMBER.findall(self.text)
        self.assertGreater(len(found), 45)
        for number, unit, name in found:
            wanted = _WORDS.get(number) or float(number.replace(",", "")) * (1 << 20 if unit == " MiB" else 1)
            value = constant(name) if "." in name else DEFAULTS[name]
            with self.subTest(name=name):
                self.assertEqual(wanted, float(value))

    def test_every_bracket_is_checked(self) -> None:
        """
        No constant or setting stands in brackets after something that is not read as a number.
        """
        brackets = re.findall(r"\d[^|()]{0,8}\(`([\w.]+)`\)", self.text)
        self.assertEqual(
            [], [name for name in brackets if name not in {found[2] for found in _NUMBER.findall(self.text)}]
        )

    def test_every_word_in_code_style_is_known(self) -> None:
        """
        It is a setting, a constant, a test, or on a list.
        """
        constants = {found[2] for found in _NUMBER.findall(self.text)}
        words = {word for word in re.findall(r"`([^`]+)`", self.text) if "::" not in word}
        self.assertEqual(set(), words - set(DEFAULTS) - constants - OTHERS)
        for word in OTHERS:
            if word.startswith(("deploy/", "tests/")):
                self.assertTrue((TOP / word).exists(), word)

    def test_page_is_linked(self) -> None:
        """
        From where readers begin.
        """
        for page, link in (("README.md", "docs/security.md"), ("SECURITY.md", "docs/security.md")):
            self.assertIn(f"]({link})", (TOP / page).read_text("utf-8"))
        self.assertIn("](security.md)", (TOP / "docs" / "design.md").read_text("utf-8"))
