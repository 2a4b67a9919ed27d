"""
How long a test may take, and which tests run in the same process when there are several (``pytest -n``).

Deals tests out one at a time, so that each process has something to do until the end, but for those of a module with
fixtures of its own scope, which are made once and not in each process.
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


#: Seconds for a test that is marked ``soak``; others have those of pyproject.toml.
SOAK_TIMEOUT = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Give long tests more time.
    """
    for item in items:
        if item.get_closest_marker("soak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SOAK_TIMEOUT))


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
