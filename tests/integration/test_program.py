"""
The program: how it starts, what it says, how it ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dns.message
import pytest

from dotproxy.config.schema import SETTINGS
from tests.integration.ports import loopback_address
from tests.integration.programs import Proxy, free_port, wait_until

WWW = dns.message.make_query("www.lab.example.", "A").to_wire()


def twistd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """
    Run twistd to its end.
    """
    code = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}
    return subprocess.run(
        [sys.executable, "-c", code, "--nodaemon", "--pidfile=", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**clean, **environment},
    )


def test_twistd_lists_the_plugin_and_every_option():
    """
    twistd knows dotproxy, and dotproxy's help has every option.
    """
    assert "dotproxy" in twistd("--help").stdout
    shown = twistd("dotproxy", "--help").stdout
    for setting in SETTINGS:
        assert f"--{setting.option}=" in shown


def test_configuration_mistakes_are_reported_at_once():
    """
    A configuration that cannot be used ends with exit code 78 and a line for each problem, and nothing else.
    """
    done = twistd("dotproxy", "-u", "quad", "--policy", "best", DOTPROXY_QUERY_TIMEOUT="soon")
    assert (done.returncode, done.stdout) == (78, "")
    told = done.stderr
    assert len(told.splitlines()) == 4
    for line in (
        "upstream (--upstream): 'quad'",
        "policy (--policy): 'best'",
        "query_timeout (DOTPROXY_QUERY_TIMEOUT)",
    ):
        assert line in told
    assert "Traceback" not in told


def test_port_in_use_is_one_line_and_exit_code_1():
    """
    A port somebody else listens on is one clear line, and exit code 1.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = twistd("dotproxy", "-l", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert (
        f"cannot listen on 127.0.0.1 port {port} (TCP): the address is in use by {Path('/proc/self/comm').read_text().strip()}"
        in done.stdout
    )
    assert f"(pid {os.getpid()})" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_start_and_stop_are_logged(serve, proxy):
    """
    It says its version, its listeners and its upstreams, then that it is ready; SIGTERM ends it soon.
    """
    server = serve()
    program = proxy(server.upstream, "quad9")
    said = program.said()
    parts = [
        "dotproxy 0.",
        f"listening on 127.0.0.1:{program.port} (UDP, TCP)",
        f"upstreams: dot.test (127.0.0.1:{server.port}) as dot.test, quad9 as dns.quad9.net; verified against",
        "ready: 1 of 2 upstreams verified (quad9: ",
    ]
    at = [said.index(part) for part in parts]
    assert at == sorted(at)
    lines = said[: said.index("ready")].splitlines()
    as_root = [line for line in lines if "serving as root, without capabilities: user = " in line]
    assert len(as_root) == (os.geteuid() == 0)
    assert len(lines) - len(as_root) <= 6
    assert program.ask(WWW)
    began = time.monotonic()
    assert program.stop() in (-signal.SIGTERM, 0)
    assert time.monotonic() - began < 5
    assert "stopped" in program.said()
    assert "Traceback" not in program.said()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
@pytest.mark.parametrize("command", ["run", "twistd"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_process_1_ends_at_sigterm(command, workers, serve, ca_file, tmp_path):
    """
    As the first process of a container, to which the kernel delivers no signal without a handler, SIGTERM ends it soon,
    all of it, with exit code 0.
    """
    server = serve()

    class First(Proxy):
        def command(self) -> list[str]:
            run = [sys.executable, "-m", "dotproxy", "run"]
            code = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
            twistd = [sys.executable, "-c", code, "--nodaemon", "--pidfile=", "dotproxy"]
            namespace = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", "--"]
            return [*namespace, *(run if command == "run" else twistd), *self.arguments]

    program = First(tmp_path / "log", ca_file, (server.upstream,), options=("--workers", workers))
    program.start()
    try:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
        pid = int(children.read_text().split()[0])
        with Path(f"/proc/{pid}/status").open() as status:
            (inside,) = [line.split()[-1] for line in status if line.startswith("NSpid")]
        assert inside == "1"
        assert dns.message.from_wire(program.ask(WWW)).answer
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert program.process.wait(30) == 0
        assert time.monotonic() - began < 5
    finally:
        program.stop(signal.SIGKILL)
    assert "stopped" in program.said()
    assert "Traceback" not in program.said()


def test_kubernetes_service_variables_are_ignored(serve, ca_file, tmp_path):
    """
    What Kubernetes sets for Services whose names begin with dotproxy does not end the program, nor is it logged; what is
    mistyped is logged once.
    """

    class InPod(Proxy):
        def environment(self) -> dict[str, str]:
            return {
                **super().environment(),
                "DOTPROXY_METRICS_SERVICE_HOST": "10.0.0.1",
                "DOTPROXY_TCP_PORT_53_TCP": "tcp://10.0.0.2:53",
                "DOTPROXY_UPSTREAM_PORT": "tcp://10.0.0.3:853",
                "DOTPROXY_POLICI": "random",
            }

    program = InPod(tmp_path / "log", ca_file, (serve().upstream,))
    program.start()
    try:
        assert dns.message.from_wire(program.ask(WWW)).answer
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "configuration read" in program.said(), program)
    finally:
        program.stop()
    assert program.said().count("DOTPROXY_POLICI (environment): no such setting, ignored") == 1
    for other in ("METRICS", "TCP_PORT", "UPSTREAM_PORT"):
        assert f"DOTPROXY_{other}" not in program.said()


def test_queries_in_flight_are_answered_at_stop(serve, proxy):
    """
    What is outstanding when it is told to stop gets an answer.
    """
    server = serve()
    program = proxy(server.upstream)
    assert program.ask(WWW)
    server.process.send_signal(signal.SIGSTOP)
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", program.port))
            client.send(WWW)
            # The question has to be in before the signal is: it is when another client's is answered.
            client.send(WWW[:2] + b"\x21" + WWW[3:])
            assert client.recv(512)[3] & 15 == 4
            program.process.send_signal(signal.SIGTERM)
            assert client.recv(512)[:2] == WWW[:2]
    finally:
        server.process.send_signal(signal.SIGCONT)
    program.process.wait(10)


def test_log_has_no_query_name_and_no_client(serve, proxy):
    """
    After a run with answers, failures and rubbish, no query name and no client address is in the log
    (RFC 9076 §5.2).
    """
    server = serve()
    program = proxy(server.upstream)
    for tcp in (False, True):
        for name in ("www.lab.example.", "secret-name.lab.example."):
            assert program.ask(dns.message.make_query(name, "A").to_wire(), tcp=tcp, source="127.7.7.7")
    program.ask(WWW[:-1], source="127.7.7.7")
    server.stop()
    program.ask(WWW, source="127.7.7.7")
    program.stop()
    said = program.said()
    assert "lab.example" not in said
    assert "secret" not in said
    assert "127.7.7.7" not in said
    assert "Traceback" not in said


def test_environment_alone_configures(serve, ca_file, tmp_path):
    """
    In a container everything may come from the environment, a file among it.
    """
    server = serve()
    toml = tmp_path / "dotproxy.toml"
    toml.write_text(f'listen = "127.0.0.1:1"\nca_file = "{ca_file}"\n')

    class FromEnvironment(Proxy):
        def command(self) -> list[str]:
            return [sys.executable, "-m", "dotproxy", "run"]

        def environment(self) -> dict[str, str]:
            return {
                **super().environment(),
                "DOTPROXY_CONFIG": str(toml),
                "DOTPROXY_LOG_FORMAT": "text",
                "DOTPROXY_LISTEN_PORT": str(self.port),
                "DOTPROXY_UPSTREAM_HOST": "127.0.0.1#dot.test",
                "DOTPROXY_UPSTREAM_PORT": str(server.port),
            }

    program = FromEnvironment(tmp_path / "log", ca_file, ())
    program.start()
    try:
        assert dns.message.from_wire(program.ask(WWW)).answer
    finally:
        program.stop()


@pytest.mark.parametrize(("option", "manner"), [("yes", "up to 64 at once"), ("no", "one by one")])
def test_either_udp_mode_answers_from_the_queried_address(option, manner, serve, proxy):
    """
    The log says which it is, and on a wildcard address answers come from where the question went.
    """
    options = ("--udp-batched", option, "--log-level", "debug")
    program = proxy(serve().upstream, options=options, listen=f"0.0.0.0:{free_port()}")
    program.port = int(program.arguments[1].rpartition(":")[2])
    for host in ("127.0.0.1", "127.0.0.7"):
        program.host = host
        assert dns.message.from_wire(program.ask(WWW)).answer
    assert f"datagrams are read and written {manner}" in program.said()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give root up")
def test_twistd_uid_gives_up_root(serve, ca_file, tmp_path):
    """
    Port 53 is bound as root, and questions are answered as nobody; it ends without a complaint about a pid file.
    """
    server = serve()

    class AsNobody(Proxy):
        def command(self) -> list[str]:
            code = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
            ids = ["--uid", "65534", "--gid", "65534"]
            return [sys.executable, "-c", code, "--nodaemon", *ids, "dotproxy", *self.arguments]

    host = loopback_address()
    program = AsNobody(tmp_path / "log", ca_file, (server.upstream,), listen=f"{host}:53")
    if program.workers > 1 and not all(folder.stat().st_mode & 1 for folder in Path(sys.executable).resolve().parents):
        pytest.skip("nobody may not start another of this Python")
    program.host, program.port = host, 53
    tmp_path.chmod(0o755)
    program.start()
    try:
        assert dns.message.from_wire(program.ask(WWW)).answer
        assert dns.message.from_wire(program.ask(WWW, tcp=True)).answer
        with Path(f"/proc/{program.process.pid}/status").open() as status:
            ids = {line.split(":")[0]: line.split()[1:] for line in status if line.startswith(("Uid", "Gid"))}
        assert ids == {"Uid": ["65534"] * 4, "Gid": ["65534"] * 4}
    finally:
        program.stop()
    assert "Main loop terminated" in program.said()  # twistd's own log
    assert "pid file" not in program.said()
    assert not Path("twistd.pid").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give root up")
def test_daemon_deletes_its_pid_file(request):
    """
    As docs/deploy.md has it: in a directory where the user it runs as may write.
    """
    folder = Path(tempfile.mkdtemp())  # the user may not enter the folder of tmp_path
    request.addfinalizer(lambda: shutil.rmtree(folder))
    os.chown(folder, 65534, 65534)
    pid_file, log = folder / "twistd.pid", folder / "log"
    code = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    options = ["--uid", "65534", "--gid", "65534", "--pidfile", str(pid_file), "--logfile", str(log)]
    command = [sys.executable, "-c", code, *options, "dotproxy", "--listen", f"127.0.0.1:{free_port()}"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}
    subprocess.run(command, check=True, timeout=60, env=clean)
    try:
        wait_until(lambda: log.exists() and "ready: " in log.read_text(), "it is ready")
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
    wait_until(lambda: "Server Shut Down" in log.read_text(), "it stops")
    wait_until(lambda: not pid_file.exists(), "its pid file is deleted")
    assert "pid file" not in log.read_text()


def test_demo_succeeds_or_says_why_not():
    """
    `dotproxy demo --once` shows everything, and succeeds; on a port that is taken it fails, and says why.
    """
    command = [sys.executable, "-m", "dotproxy", "demo", "--once", "--port"]
    done = subprocess.run([*command, "0"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "→ 192.0.2.80",
        "'hello over TLS'",
        "truncated",
        "TLSv1.3",
        "verified as dot.demo.test",
        "SERVFAIL: EDE 22",
    ):
        assert part in done.stdout
    assert "no octet of a query" in done.stdout
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*command, port], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "the address is in use" in done.stderr) == (1, True)


def test_demo_answers_until_it_is_stopped():
    """
    Without --once it can be asked afterwards, until it is stopped.
    """
    port = free_port()
    # Whoever is run in the background ignores SIGINT, and so do its children, unless they are told.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    main = f"{heed}; from dotproxy.cli.main import main; main(['demo', '--port', '{port}'])"
    process = subprocess.Popen([sys.executable, "-c", main], stdout=subprocess.PIPE, text=True)
    try:
        lines: list[str] = []
        wait_until(lambda: lines.append(process.stdout.readline()) or "Ctrl-C" in lines[-1], "it stays up")
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", port))
            query = dns.message.make_query("hello.demo.test.", "TXT")
            client.send(query.to_wire())
            assert "hello over TLS" in dns.message.from_wire(client.recv(4096)).answer[0].to_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
