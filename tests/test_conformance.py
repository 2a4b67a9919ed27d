"""
docs/conformance.md: what it says is shown is shown.
"""

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "conformance.md"

#: Requirements that came later than the others, by the number of what they stand after.
LATER = {10: "a", 20: "a", 95: "abc", 106: "a", 113: "a"}

#: The requirements on the list.
REQUIREMENTS = [f"{number}{letter}" for number in range(1, 114) for letter in ("", *LATER.get(number, ""))]


class Row:
    """
    One requirement.
    """

    def __init__(self, line: str) -> None:
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        self.number, self.requirement, rfcs, shown_by, self.result = cells
        self.rfcs = set(re.findall(r"\b(\d{3,4})(?: §|,|$)", rfcs))
        self.tests = re.findall(r"`([^`]+)`", shown_by)


def rows() -> list[Row]:
    """
    Every row of the page.
    """
    lines = PAGE.read_text("utf-8").splitlines()
    return [Row(line) for line in lines if re.match(r"\| \d+[a-z]? \|", line)]


def docstrings() -> dict[str, str]:
    """
    Each test, as FILE::NAME, with what it and its class and module say it is about.
    """
    found: dict[str, str] = {}
    for path in TESTS.rglob("test_*.py"):
        module = ast.parse(path.read_text("utf-8"))
        for node in module.body:
            functions = node.body if isinstance(node, ast.ClassDef) else [node]
            above = ast.get_docstring(node) or "" if isinstance(node, ast.ClassDef) else ""
            for function in functions:
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    key = f"{path.relative_to(TESTS)}::{function.name}"
                    said = f"{above} {ast.get_docstring(function) or ''}"
                    found[key] = f"{found.get(key, '')} {said}"
    return found


class ConformanceTests(SynchronousTestCase):
    """
    The page against the tests.
    """

    def test_no_requirement_is_missing(self) -> None:
        """
        Each has one row, in order.
        """
        self.assertEqual(REQUIREMENTS, [row.number for row in rows()])

    def test_each_requirement_has_tests_or_a_reason(self) -> None:
        """
        A requirement holds by its tests, or has a reason why it does not apply.
        """
        for row in rows():
            if row.tests:
                self.assertEqual("holds", row.result, row.number)
            else:
                self.assertRegex(row.result, r"^does not apply: .{10}", row.number)

    def test_each_named_test_exists_and_cites_the_rfc(self) -> None:
        """
        Every test that is named exists, and one of a row's tests at least names each RFC of the row.
        """
        said = docstrings()
        missing: list[str] = []
        for row in rows():
            told: set[str] = set()
            for test in row.tests:
                if test not in said:
                    missing.append(f"{row.number}: no test {test}")
                    continue
                told |= set(re.findall(r"RFC (\d{3,4})", said[test]))
                told |= set(re.findall(r"(?<=, )(\d{4}) §", said[test]))
            if row.tests and row.rfcs - told:
                missing.append(f"{row.number}: nobody names RFC {', '.join(sorted(row.rfcs - told))}")
        self.assertEqual("", "\n".join(missing))
