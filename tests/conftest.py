"""
Which tests run in the same process when there are several (``pytest -n``).

Decides it so that each process has something to do until the end: a test at a time, but for the modules with fixtures
of their own scope, which are made once and not in each process.
"""

import functools
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parent.parent


@functools.cache
def _is_kept_together(file: str) -> bool:
    path = TOP / file
    return path.is_file() and 'scope="module"' in path.read_text("utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Return what deals out the tests.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if _is_kept_together(file) else nodeid

    return Scheduling(config, log)
