"""
A pytest plugin that notes which test executes which lines of dotproxy, and how long it takes.

Used as `pytest -p mutants.coverage_plugin` by `mutants.line_map`; writes JSON to the file that DOTPROXY_LINE_MAP names:
{"seconds": {test: seconds}, "lines": {path: {line: [test, ...]}}}.  Lines executed on import only have no test.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

_COVERAGE = coverage.Coverage(data_file=None, branch=False, source=["dotproxy"], config_file=False)
_COVERAGE.start()
_seconds: dict[str, float] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """
    Count what runs from here on, setUp included, for this test.
    """
    _COVERAGE.switch_context(item.nodeid)
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """
    Add up the time of a test's phases.
    """
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_unconfigure(config: pytest.Config) -> None:
    """
    Write what was noted.
    """
    _COVERAGE.stop()
    data = _COVERAGE.get_data()
    root = Path.cwd()
    lines = {
        str(Path(name).relative_to(root)): {
            line: [test for test in tests if test] for line, tests in data.contexts_by_lineno(name).items()
        }
        for name in data.measured_files()
    }
    Path(os.environ["DOTPROXY_LINE_MAP"]).write_text(json.dumps({"seconds": _seconds, "lines": lines}), "utf-8")
