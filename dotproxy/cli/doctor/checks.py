"""
The checks of ``dotproxy doctor``: their severity, and how they are printed.

Decides the form, and the exit code: 1 if any check is a problem.  Findings are made by ``diagnosis``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from dotproxy.wire.printable import printable


class Level(StrEnum):
    """
    The severity of a finding.  Only a ``PROBLEM`` changes the exit code.
    """

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """
    One finding: what was checked, what was found, and what to do about it ("" if nothing).
    """

    name: str
    level: Level
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    """
    Return a check that found nothing wrong.
    """
    return Check(name, Level.OK, found)


def warning(name: str, found: str, advice: str = "") -> Check:
    """
    Return a check that could not be done, or that found something configured on purpose.
    """
    return Check(name, Level.WARNING, found, advice)


def problem(name: str, found: str, advice: str) -> Check:
    """
    Return a check that found a leak, or something that does not work.
    """
    return Check(name, Level.PROBLEM, found, advice)


def exit_code(checks: Sequence[Check]) -> int:
    """
    Return 1 if there is a problem, else 0.
    """
    return 1 if any(check.level is Level.PROBLEM for check in checks) else 0


def as_text(checks: Sequence[Check]) -> str:
    """
    Return a line for each check, and its advice below it.
    """
    lines: list[str] = []
    for check in checks:
        lines.append(f"{check.level:<7}  {printable(check.name)}: {printable(check.found)}")
        if check.advice:
            lines.append(f"         → {check.advice}")
    return "\n".join(lines)


def as_json(checks: Sequence[Check]) -> str:
    """
    Return the checks as a JSON object.
    """
    found = {"healthy": exit_code(checks) == 0, "checks": [asdict(check) for check in checks]}
    return json.dumps(found, indent=2)
