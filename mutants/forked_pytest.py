"""
pytest in a child of a process that has imported everything but dotproxy and its tests.

A run of a few tests takes a fifth of a second then, instead of two.
"""

import gc
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

#: What the tests import, and what takes longest to import.  Nothing of it makes a reactor.
_PRELOADED = (
    *(
        "pytest",
        "_pytest.assertion.rewrite",
        "_pytest.unittest",
        "_pytest.doctest",
        "_pytest.junitxml",
        "pytest_twisted",
    ),
    *("hypothesis", "hypothesis.strategies", "hypothesis.internal.conjecture.engine"),
    *("twisted.trial.unittest", "twisted.internet.ssl", "twisted.internet.task", "twisted.internet.epollreactor"),
    *("twisted.internet.endpoints", "twisted.internet.testing", "twisted.test.iosim", "twisted.protocols.tls"),
    *("twisted.names.dns", "twisted.names.client", "twisted.names.server", "twisted.web.server", "twisted.web.client"),
    *("twisted.application.service", "twisted.logger", "cryptography.x509", "OpenSSL.SSL", "service_identity"),
    *("prometheus_client", "cffi", "dns.message", "dns.rdtypes.ANY", "dns.renderer", "tomllib", "yaml"),
)
#: Address space of one run, in octets: an endless loop that collects must not cost the machine its memory.
_MEMORY = 4 << 30


def preload() -> None:
    """
    Import what all runs need.
    """
    for name in _PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:  # it is there to save time only
            continue
    gc.collect()
    gc.freeze()


def run_pytest(tree: Path, tests: list[str], limit: float) -> tuple[int | None, str]:
    """
    Run tests in a tree until one fails; return pytest's exit code, None after `limit` seconds, and its output.
    """
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if not child:
            _run(tree, tests, output.fileno())
        code = _wait(child, limit)
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")


def _wait(child: int, limit: float) -> int | None:
    """
    Wait for the child; at the limit, end it and all its children.
    """
    end = time.monotonic() + limit
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.02)


def _run(tree: Path, tests: list[str], output: int) -> None:
    """
    Be the child: its output goes to a file, its imports come from the tree.  Does not return.
    """
    code = 3
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115 (until the process ends)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115 (likewise)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        import pytest

        options = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore", "-p", "mutants.fail_fast_plugin"]
        code = int(pytest.main([*options, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)
