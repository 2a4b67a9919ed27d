"""
The commands, as somebody at a terminal uses them.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest
import pytest_twisted
from twisted.internet import reactor

from dotproxy.testing.certificates import Authority
from dotproxy.testing.server import DotServer
from tests.integration.test_doctor import asked_here, probed_here

PROXY = [sys.executable, "-m", "dotproxy"]


def environment() -> dict[str, str]:
    """
    Without anything that is meant for another dotproxy; output is buffered, as it is for users.
    """
    mine = {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}
    mine.pop("PYTHONUNBUFFERED", None)
    return mine


def run(*words: str, **more) -> subprocess.CompletedProcess[str]:
    """
    A command, to its end.
    """
    return subprocess.run(
        [*PROXY, *words], capture_output=True, text=True, check=False, timeout=60, env=environment(), **more
    )


def piped(*words: str) -> tuple[int, str, str]:
    """
    A command of whose output only a line is read: its exit code, what was read, its complaints.
    """
    line = f"{shlex.join([*PROXY, *words])} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60, env=environment()
    )
    return done.returncode, done.stdout, done.stderr


def unread(*words: str) -> tuple[int, str]:
    """
    A command whose output goes into a pipe that nobody has open any more: its exit code and complaints.
    """
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run(
            [*PROXY, *words], stdout=out, stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=environment()
        )
    return done.returncode, done.stderr


def test_closed_pipe_is_no_error(serve, proxy, tmp_path, ca_file):
    """
    Nothing is complained of, whether the pipe was closed before or while something was written into it.
    """
    server = serve()
    program = proxy(server.upstream, options=("--admin-socket", str(tmp_path / "admin")))
    commands = (
        ["status", "--socket", str(tmp_path / "admin")],
        ["status", "--json", "--socket", str(tmp_path / "admin")],
        ["example"],
        ["check", "--upstream", server.upstream],
        ["probe", server.upstream, "--ca-file", str(ca_file), "--name", "lab.example"],
        ["query", "www.lab.example", f"@{server.upstream}", "--ca-file", str(ca_file)],
        ["--help"],
        ["example", "--help"],
        ["version"],
    )
    assert program.process.poll() is None
    for words in commands:
        code, text, complaint = piped(*words)
        assert (code in (0, 141), complaint) == (True, ""), words
        assert len(text.splitlines()) == 1, words
        assert unread(*words) == (141, ""), words


@pytest.fixture
def shared() -> Iterator[Path]:
    """
    A folder that every user may enter, unlike pytest's own.
    """
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_user_with_the_socket_can_use_commands(serve, proxy, shared):
    """
    Who may use the socket can use the commands, though the rest of the configuration is not for him.
    """
    server = serve()
    secret = shared / "secret"
    secret.mkdir(mode=0o700)
    admin = shared / "admin"
    file = shared / "dotproxy.toml"
    program = proxy(server.upstream, options=("--admin-socket", str(admin)))
    file.write_text(
        f'admin_socket = "{admin}"\ncache_file = "{secret}/cache"\nca_file = "{secret}/ca.pem"\n'
        f'listen = "{program.host}:{program.port}"\n'
    )
    admin.chmod(0o666)
    code = (
        "import os, sys, dotproxy.cli.main, dotproxy.cli.control, dotproxy.config.load, dotproxy.tap, encodings.idna\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(dotproxy.cli.main.main(sys.argv[1:]))\n"
    )

    def as_nobody(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--config", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment(),
        )
        return done.returncode, done.stdout + done.stderr

    assert as_nobody("status")[1].startswith("dotproxy ")
    code_of_stats, told = as_nobody("cache", "stats")
    assert (code_of_stats, told[:7]) == (0, "cache: ")
    assert as_nobody("healthcheck") == (0, "")
    code_of_check, told = as_nobody("check")
    assert code_of_check != 0
    assert f"cache_file ({file}): '{secret}/cache' cannot be looked at: permission denied" in told
    assert "Traceback" not in told
    admin.chmod(0o600)
    assert as_nobody("status") == (1, f"dotproxy status: {admin}: Permission denied\n")


def test_query_needs_no_dnspython(serve, ca_file):
    """
    What it prints, it prints by itself.
    """
    server = serve()
    code = "import sys; sys.modules['dns'] = None; from dotproxy.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["query", "www.lab.example", "AAAA", f"@{server.upstream}", "--ca-file", str(ca_file)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nwww.lab.example.\t" in done.stdout
    assert "\tIN\tAAAA\t2001:db8::1\n" in done.stdout


def answering(rcode: int):
    """
    A server's answer to everything.
    """

    def answer(query: bytes) -> bytes:
        reply = dns.message.make_response(dns.message.from_wire(query))
        reply.set_rcode(rcode)
        return reply.to_wire()

    return answer


@pytest.mark.parametrize(
    ("rcode", "name", "is_good"), [(2, "SERVFAIL", False), (5, "REFUSED", False), (3, "NXDOMAIN", True)]
)
@pytest_twisted.ensureDeferred
async def test_probe_fails_on_error_responses(rcode, name, is_good, authority, ca_file):
    """
    It is verified, and no good.
    """
    server = DotServer(answering(rcode), authority.issue(["dot.test"]))
    port = await server.listen(reactor)
    number = port.getHost().port
    try:
        code, text = await probed_here(ca_file, number)
        assert code == (0 if is_good else 1)
        assert f"answers       {name}" in text
        assert (f"problem       responds with {name} to lab.example. SOA" in text) == (not is_good)
        code, text = await probed_here(ca_file, number, as_json=True)
        assert (code, f'"is_good": {str(is_good).lower()}' in text) == (0 if is_good else 1, True)
        assert f"status: {name}" in await asked_here(ca_file, number, "www.lab.example", "A")
    finally:
        server.close_connections()
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_probe_reports_a_trusted_intermediate(tmp_path: Path):
    """
    An intermediate CA without its root in ca_file is an anchor, and that is said; a root is not worth a word.
    """
    root = Authority("the root")
    intermediate = Authority("the intermediate", parent=root)
    for authority, signer, is_told in ((intermediate, intermediate, True), (root, root, False)):
        ca_file = tmp_path / "ca.pem"
        ca_file.write_bytes(authority.pem)
        server = DotServer(answering(0), signer.issue(["dot.test"]))
        port = await server.listen(reactor)
        try:
            code, text = await probed_here(ca_file, port.getHost().port)
            assert (code, "verified as dot.test" in text) == (0, True)
            note = "trusted because ca_file holds CN=the intermediate, which is not a root: its issuers are not checked"
            assert (note in text) == is_told
        finally:
            server.close_connections()
            await port.stopListening()


def test_commands_need_only_declared_dependencies(tmp_path: Path):
    """
    Everything that the commands import is a dependency of the package, not only of its tests.
    """
    code = (
        "import sys, pkgutil, importlib\n"
        "for name in ('dns', 'pytest', 'hypothesis', 'pytest_twisted'): sys.modules[name] = None\n"
        "import dotproxy\n"
        "for module in pkgutil.walk_packages(dotproxy.__path__, 'dotproxy.'):\n"
        "    if module.name != 'dotproxy.__main__': importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
