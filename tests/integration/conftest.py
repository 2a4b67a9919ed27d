"""
What the integration tests share: a CA, real servers, and the real program in front of them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Proxy
from tests.integration.servers import Server, Unbound


@pytest.fixture(scope="session")
def authority() -> Authority:
    """
    The CA that everybody here trusts.
    """
    return Authority()


@pytest.fixture(scope="session")
def ca_file(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Its certificate, in a file.
    """
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture
def serve(authority: Authority, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """
    Start a server; it ends with the test.
    """
    started: list[Server] = []

    def start(kind: type[Server] = Unbound, certificate=None, **changes) -> Server:
        folder = tmp_path / f"server{len(started)}"
        folder.mkdir()
        server = kind(folder, certificate or authority.issue(["dot.test", "127.0.0.1"]), **changes)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def proxy(ca_file: Path, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """
    Start dotproxy, as a program of its own; it ends with the test.
    """
    started: list[Proxy] = []

    def start(*upstreams: str, options: tuple[str, ...] = (), **changes) -> Proxy:
        program = Proxy(tmp_path / f"proxy{len(started)}.log", ca_file, upstreams, options, **changes)
        started.append(program)
        program.start()
        return program

    yield start
    for program in started:
        program.stop()
