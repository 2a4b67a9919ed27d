"""
Which tests execute a line.

Decides which tests are run for a mutation, and in what order.  Kept in build/mutants/map.json; made again for those
test files that changed, or that execute a module that changed.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mutants.operators import Mutation

#: What is not a unit test, or executes none of the code in its own process.
_LEFT_OUT = {"integration", "typing", "misbehaving"}
#: A test that takes no longer is quick, in seconds.
_QUICK = 0.1


class LineMap:
    """
    The tests by line, and their durations.
    """

    def __init__(self, root: Path, tree: Path, file: Path) -> None:
        """
        `tree` is a copy of the project at `root`, in which tests can be run.
        """
        self._root = root
        self._tree = tree
        self._file = file
        #: By test file: the digests of what it was made from, and what was seen.
        self._kept: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        self._tests_by_line: dict[tuple[str, int], list[str]] = {}
        self._tests_by_path: dict[str, set[str]] = {}
        self._seconds: dict[str, float] = {}

    def refresh(self) -> list[str]:
        """
        Execute what changed under coverage; return the tests that fail with the code as it is, which are left out.
        """
        test_files = [
            str(path.relative_to(self._root))
            for path in sorted((self._root / "tests").rglob("test_*.py"))
            if not _LEFT_OUT & set(path.parts)
        ]
        self._kept = {name: entry for name, entry in self._kept.items() if name in test_files}
        shared = _digest(
            path for path in sorted((self._root / "tests").rglob("*.py")) if not path.name.startswith("test_")
        )
        digests = {
            str(path.relative_to(self._root)): _digest([path]) for path in (self._root / "dotproxy").rglob("*.py")
        }

        def expected(name: str) -> dict[str, Any]:
            touched = self._kept[name]["lines"] if name in self._kept else {}
            return {
                "shared": shared,
                "test": _digest([self._root / name]),
                "modules": {module: digests.get(module) for module in touched},
            }

        stale = [name for name in test_files if name not in self._kept or self._kept[name]["of"] != expected(name)]
        failed: list[str] = []
        if stale:
            print(f"{len(stale)} of {len(test_files)} test files under coverage …", file=sys.stderr, flush=True)
            seen = self._execute(stale)
            failed = seen["failed"]
            by_file = _by_file(seen)
            for name in stale:
                self._kept[name] = by_file.get(name, {"seconds": {}, "lines": {}})
                self._kept[name]["of"] = expected(name)
            broken = {test.split("::")[0] for test in failed}
            clean = {name: entry for name, entry in self._kept.items() if name not in broken}
            self._file.write_text(json.dumps(clean), "utf-8")
        self._index()
        return failed

    def _execute(self, test_files: list[str]) -> dict[str, Any]:
        out = self._file.with_suffix(".new").absolute()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "mutants.coverage_plugin",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
        ]
        finished = subprocess.run(
            [*command, *test_files],
            cwd=self._tree,
            env={**os.environ, "DOTPROXY_LINE_MAP": str(out), "TEST_EFFORT": "quick"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seen: dict[str, Any] = json.loads(out.read_text("utf-8"))
        out.unlink()
        lines = [line.split(" ") for line in finished.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        seen["failed"] = [line[1] for line in lines]
        return seen

    def _index(self) -> None:
        for entry in self._kept.values():
            self._seconds.update(entry["seconds"])
            for path, lines in entry["lines"].items():
                for line, tests in lines.items():
                    self._tests_by_line.setdefault((path, int(line)), []).extend(tests)
                    self._tests_by_path.setdefault(path, set()).update(tests)

    def tests_for(self, mutation: Mutation) -> list[str]:
        """
        Return test ids: those of the module's own test file first, then the others, the quickest first.

        A line in a function has the tests that execute it; one that is executed on import only (a constant, a default)
        has the module's own tests, and the quick ones of all tests that execute anything of the module.
        """
        first, last = mutation.lines
        found = {test for line in range(first, last + 1) for test in self._tests_by_line.get((mutation.path, line), ())}
        own = [test for test in self._seconds if test.split("::")[0] in self._own_files(mutation.path)]
        own = sorted((test for test in own if not found or test in found), key=self._key)
        others = sorted(found - set(own), key=self._key)
        if not found:
            touching = self._tests_by_path.get(mutation.path, set()) - set(own)
            others = sorted((test for test in touching if self._seconds[test] < _QUICK), key=self._key)
        return own + others

    def _key(self, test: str) -> tuple[float, str]:
        return self._seconds[test], test

    def _own_files(self, path: str) -> set[str]:
        """
        Return the mirrored test file and those whose names begin like it.
        """
        module = Path(path).relative_to("dotproxy")
        folder = self._root / "tests" / module.parent
        return {str(file.relative_to(self._root)) for file in folder.glob(f"test_{module.stem}*.py")}

    def seconds(self, tests: Iterable[str]) -> float:
        """
        Return how long these tests took together.
        """
        return sum(self._seconds[test] for test in tests)


def _by_file(seen: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """
    Return what was seen of the tests that did not fail, by test file.
    """
    found: dict[str, dict[str, Any]] = {}
    files = {test: test.split("::")[0] for test in seen["seconds"].keys() - set(seen["failed"])}
    for test, file in files.items():
        found.setdefault(file, {"seconds": {}, "lines": {}})["seconds"][test] = seen["seconds"][test]
    for module, lines in seen["lines"].items():
        for line, tests in lines.items():
            for test in tests:
                if test in files:
                    found[files[test]]["lines"].setdefault(module, {}).setdefault(line, []).append(test)
    return found


def _digest(paths: Iterable[Path]) -> str:
    """
    Return a digest of the contents of files.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
