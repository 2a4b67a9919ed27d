"""
Look up what the image's lock files name in the database of known vulnerabilities (`make audit`).

Decides what counts: a known vulnerability fails, and so does a package that the database does not know while it knows
others.  Where the database cannot be reached, nothing is known: that is said in one line, and does not fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOCKS = ("requirements.lock", "build-requirements.lock")

#: What pip-audit says where it reaches nobody; whatever else keeps it from an answer is a mistake of ours.
_UNREACHABLE = (
    "ConnectionError",
    "ConnectionFailed",
    "ConnectTimeout",
    "ReadTimeout",
    "NameResolutionError",
    "ServiceError",
)

#: How long one lock file may take, in seconds.
_LIMIT = 300


def ask(path: Path) -> tuple[str, str]:
    """
    Return what pip-audit prints about a lock file, as JSON, and what it says besides.
    """
    options = ("--format", "json", "--progress-spinner", "off", "--disable-pip", "--require-hashes", "--timeout", "20")
    command = [sys.executable, "-m", "pip_audit", *options, "--requirement", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        return "", f"ReadTimeout: no answer within {_LIMIT} s"
    return done.stdout, done.stderr


def judge(name: str, found: str, said: str) -> tuple[str, bool]:
    """
    Return what is to be told of a lock file, and whether it is all right.
    """
    try:
        dependencies: list[dict[str, Any]] = json.loads(found)["dependencies"]
    except (ValueError, KeyError):
        why = (said.strip().splitlines() or ["pip-audit says nothing"])[-1]
        is_reached = not any(word in said for word in _UNREACHABLE)
        return f"{name}: NOT AUDITED, the database of vulnerabilities cannot be asked: {why}", not is_reached
    if not dependencies:
        return f"{name}: pip-audit finds nothing in it", False
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    if len(skipped) == len(dependencies):
        return f"{name}: NOT AUDITED, the database of vulnerabilities knows none of {len(skipped)} packages", True
    bad = [
        f"{one['name']} {one['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version'}"
        for one in dependencies
        for flaw in one.get("vulns", ())
    ]
    if bad or skipped:
        return "\n".join([f"{name}: {line}" for line in (*bad, *(f"{one}: not known" for one in skipped))]), False
    return f"{name}: {len(dependencies)} packages, no known vulnerability", True


def main(how: Callable[[Path], tuple[str, str]] = ask) -> int:
    """
    Audit every lock file; return the exit code.
    """
    verdicts = [judge(name, *how(HERE / name)) for name in LOCKS]
    for text, _ in verdicts:
        print(text)
    return 0 if all(is_right for _, is_right in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
