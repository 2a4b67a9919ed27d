"""
What is left of root, and of capabilities, once dotproxy serves: of each process, and each thread of it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest

from dotproxy.service.privileges import FILES
from tests.integration.ports import loopback_address
from tests.integration.programs import Proxy, wait_until, which

WWW = dns.message.make_query("www.lab.example.", "A", use_edns=0)
NOBODY = 65534
TOP = Path(__file__).parent.parent.parent
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is given up here")


def python() -> tuple[str, dict[str, str]]:
    """
    A Python that nobody may execute, and what it needs in its environment; the test is skipped if there is none.
    """

    def is_open(path: Path) -> bool:
        return all(folder.stat().st_mode & 1 for folder in path.resolve().parents)

    if not is_open(TOP) or not all(is_open(Path(one)) for one in sys.path if "site-packages" in one):
        pytest.skip("nobody may not read this checkout")
    where = {"PYTHONPATH": os.pathsep.join([str(TOP), *(one for one in sys.path if "site-packages" in one)])}
    if is_open(Path(sys.executable)):
        return sys.executable, where
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(system).exists():
        pytest.skip("nobody may not execute this Python, and there is no other of its version")
    return system, where


class Served(Proxy):
    """
    dotproxy on port 53 of an address of its own, with a configuration file, and files in a folder.

    ``before`` is what stands before ``-m dotproxy run``, ``started`` how it is started if not by that.
    """

    def __init__(self, folder: Path, host: str, upstream: str, options: tuple[str, ...]) -> None:
        self.folder = folder
        self.config = folder / "dotproxy.toml"
        self.configure(128)
        more = ("--config", str(self.config), *options)
        super().__init__(folder / "log", folder / "ca.pem", (upstream,), more, listen=f"{host}:53", cache=True)
        self.host, self.port = host, 53
        self.python, self.where = python()
        self.before: list[str] = []
        self.started = ["-m", "dotproxy", "run"]

    def configure(self, padding: int) -> None:
        """
        Write the file.
        """
        cache, admin = self.folder / "kept" / "cache", self.folder / "kept" / "admin"
        self.config.write_text(f'padding = {padding}\ncache_file = "{cache}"\nadmin_socket = "{admin}"\n')

    def command(self) -> list[str]:
        return [*self.before, self.python, *self.started, *self.arguments]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.where, "PYTHONDONTWRITEBYTECODE": "1"}

    def processes(self) -> list[int]:
        """
        It, and its workers.
        """
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def statuses(self) -> list[dict[str, str]]:
        """
        What the kernel says of each thread of each.
        """
        texts = [task.read_text() for pid in self.processes() for task in Path(f"/proc/{pid}/task").glob("*/status")]
        return [{key: value.strip() for key, _, value in re.findall(r"(\w+):(\s)(.*)", text)} for text in texts]

    def capabilities(self) -> set[tuple[str, ...]]:
        """
        The sets of every thread.
        """
        return {tuple(status[name].lstrip("0") or "0" for name in SETS) for status in self.statuses()}

    def said_of(self, text: str) -> bool:
        """
        Whether a line has a text.
        """
        return text in self.said()


@pytest.fixture
def folder(ca_file) -> Iterator[Path]:
    """
    One that nobody may enter (unlike that of tmp_path), with a folder ``kept`` of nobody's in it.
    """
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    shutil.copy(ca_file, path / "ca.pem")
    (path / "ca.pem").chmod(0o644)
    (path / "kept").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def served(serve, folder) -> Iterator:
    """
    Make one; it ends with the test.
    """
    made: list[Served] = []

    def make(*options: str, owner: int = NOBODY) -> Served:
        os.chown(folder / "kept", owner, owner)
        program = Served(folder, loopback_address(), serve().upstream, options)
        made.append(program)
        return program

    yield make
    for program in made:
        program.stop()


def serves(program: Served) -> None:
    """
    Responses come over UDP and TCP, before and after a reload by SIGHUP, and one over the admin socket.
    """
    for tcp in (False, True):
        assert dns.message.from_wire(program.ask(WWW.to_wire(), tcp=tcp)).answer
    program.configure(256)
    program.process.send_signal(signal.SIGHUP)
    wait_until(lambda: program.said_of("configuration read: padding is 256, was 128"), program)
    program.configure(64)
    command = [program.python, "-m", "dotproxy", "reload", "--config", str(program.config)]
    done = subprocess.run(command, env=program.environment(), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "padding is 64, was 256\n"), done.stderr
    other = dns.message.make_query("n1.lab.example.", "A").to_wire()
    assert dns.message.from_wire(program.ask(other)).rcode() in (0, 3)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", ["--user", "--uid", "root"])
def test_no_capability_is_left(how, workers, served):
    """
    However it is started as root: no capability in any set of any thread of any process, no_new_privs; port 53 is
    served, a reload works, the cache file and the admin socket can be used.
    """
    program = served("--workers", workers, *(["--user", "nobody"] if how == "--user" else []))
    if how == "--uid":
        code = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
        program.started = ["-c", code, "--nodaemon", "--uid", str(NOBODY), "--gid", str(NOBODY), "dotproxy"]
    if how == "root":
        os.chown(program.folder / "kept", 0, 0)
    program.start()
    wait_until(lambda: len(program.processes()) == (1 if workers == "1" else 3), program)
    serves(program)
    assert program.capabilities() == {("0",) * 5}
    assert {status["NoNewPrivs"] for status in program.statuses()} == {"1"}
    uid = "0" if how == "root" else str(NOBODY)
    assert {status["Uid"] for status in program.statuses()} == {"\t".join([uid] * 4)}
    assert program.said_of("serving as root, without capabilities: ") == (how == "root")
    assert not program.said_of("may not")
    assert program.stop() in (0, -signal.SIGTERM)
    kept = program.folder / "kept" / ("cache" if workers == "1" else "cache.1")
    assert kept.stat().st_uid == int(uid)
    assert not program.said_of("cannot be written")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bind_capability_is_dropped(workers, served):
    """
    Of a user that has just the one for port 53, as under the systemd unit, nothing is left either; what the bounding
    set has cannot be gained.
    """
    program = served("--workers", workers)
    os.chown(program.folder, NOBODY, NOBODY)
    caps = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"]
    program.before = [which("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *caps]
    program.start()
    serves(program)
    (sets,) = program.capabilities()
    assert (*sets[:3], sets[4]) == ("0",) * 4
    assert {status["NoNewPrivs"] for status in program.statuses()} == {"1"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_root_keeps_only_access_to_files(workers, served):
    """
    Root without a user, whose configuration is in a folder that only its owner may enter: access to files is kept, and
    nothing else, so that a reload works; the log says why.
    """
    program = served("--workers", workers)
    home = program.folder / "home"
    home.mkdir()
    program.config = home / "dotproxy.toml"
    program.configure(128)
    program.arguments[program.arguments.index("--config") + 1] = str(program.config)
    os.chown(home, NOBODY, NOBODY)
    home.chmod(0o700)
    program.start()
    serves(program)
    kept = f"{sum(1 << number for number in FILES):x}"
    assert program.capabilities() == {("0", kept, kept, kept, "0")}
    told = f"serving as root, without capabilities, but for access to all files ({program.config} is another user's)"
    assert program.said_of(told)


def test_files_the_user_may_not_read_are_reported(served):
    """
    A line for each file that a reload, or the cache, would miss; it serves all the same.
    """
    program = served("--user", "nobody", owner=0)
    program.config.chmod(0o600)
    program.start()
    assert dns.message.from_wire(program.ask(WWW.to_wire())).answer
    lines = [line.partition("user nobody: ")[2] for line in program.said().splitlines() if "user nobody: " in line]
    kept = program.folder / "kept"
    assert lines == [
        f"may not read {program.config}, so that a reload will fail",
        f"may not write to {kept}, so that there will be no cache_file; chown it",
        f"may not write to {kept}, so that there will be no admin_socket; chown it",
    ]
    program.process.send_signal(signal.SIGHUP)
    wait_until(lambda: program.said_of("cannot be read: permission denied"), program)
    assert dns.message.from_wire(program.ask(WWW.to_wire())).answer


def test_python_the_user_may_not_execute_is_refused_with_workers(served):
    """
    With workers it is refused, with the exit code of a configuration that cannot be used; one process serves.
    """
    program = served("--user", "nobody", "--workers", "2")
    hidden = program.folder / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "python").symlink_to(program.python)
    program.python = str(hidden / "python")
    done = subprocess.run(
        program.command(), env=program.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    told = f"user nobody: may not use {program.python}, which is part of the program, and start no worker"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (os.EX_CONFIG, told)
    program.arguments[program.arguments.index("--workers") + 1] = "1"
    program.start()
    assert dns.message.from_wire(program.ask(WWW.to_wire())).answer


def test_user_setting_without_root_is_reported(served):
    """
    Somebody else stays who he is, and that is told.
    """
    program = served("--user", "daemon")
    os.chown(program.folder, NOBODY, NOBODY)
    caps = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"]
    program.before = [which("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *caps]
    program.start()
    assert program.said_of(f"user daemon: only root can become another user; serving as user {NOBODY}")
    assert {status["Uid"] for status in program.statuses()} == {"\t".join([str(NOBODY)] * 4)}


def test_library_keeps_the_processs_privileges():
    """
    Neither a resolver, nor a proxy, nor the service of somebody who is not twistd changes what the process may do.
    """
    program = """
import json, re
from twisted.internet import reactor
from dotproxy import DoTResolver
from dotproxy.service.assembly import build
from dotproxy.config.load import load
from dotproxy.tap import Options, makeService

def state():
    return dict(re.findall(r"^(Cap\\w+|NoNewPrivs|[UG]id):\\s*(.*)$", open("/proc/self/status").read(), re.MULTILINE))

before = state()
resolver = DoTResolver(["127.0.0.1"], reactor=reactor)
proxy = build(load({"listen": ["127.0.0.1:0"]}, {}).config, reactor)
options = Options()
options.parseOptions(["--listen", "127.0.0.1:0", "--user", "nobody"])
services = [proxy, makeService(options)]
for service in services:
    service.privilegedStartService()
    service.startService()

def end():
    print(json.dumps([before, state()]))
    reactor.stop()

reactor.callWhenRunning(reactor.callLater, 0.5, end)
reactor.run()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert before == after
    assert before["NoNewPrivs"] == "0"
    assert int(before["CapEff"], 16)
