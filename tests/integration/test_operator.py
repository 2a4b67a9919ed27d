"""
What an operator does with a running proxy.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dns.message
import pytest

from dotproxy.telemetry.plural import pluralized
from tests.integration.programs import Proxy, free_port, wait_until, which
from tests.integration.servers import ZONE, Backend, Nsd
from tests.misbehaving.matrix import Misbehaving
from tests.misbehaving.steady import Steady

WWW = dns.message.make_query("www.lab.example.", "A", use_edns=0)


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def operated(request, serve, proxy, tmp_path):
    """
    A proxy with both admin addresses, and a configuration file for what else there is.
    """
    server = serve()
    file = tmp_path / "dotproxy.toml"
    file.write_text(f'upstream = ["{server.upstream}"]\n')
    port, path = free_port(), tmp_path / "admin"
    options = ("--config", str(file), "--admin-listen", f"127.0.0.1:{port}", "--admin-socket", str(path))
    options += ("--workers", str(request.param))
    program: Proxy = proxy(options=options, cache=True)
    program.admin_port, program.admin_path, program.file, program.server = port, path, file, server
    return program


def get(program: Proxy, path: str, method: str = "GET") -> tuple[int, str]:
    """
    Look at something over HTTP.
    """
    connection = http.client.HTTPConnection("127.0.0.1", program.admin_port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read().decode()


def told(program: Proxy, *command: str) -> str:
    """
    Run a command against it.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dotproxy", *command, "--socket", str(program.admin_path)],
        capture_output=True,
        text=True,
        check=False,
        env=program.environment(),
        cwd=program.log.parent,
    )
    return f"{done.returncode} {done.stdout}{done.stderr}"


def ask(program: Proxy, tcp: bool = False) -> int:
    """
    Ask for www; return the rcode.
    """
    return int(dns.message.from_wire(program.ask(WWW.to_wire(), tcp=tcp)).rcode())


def test_metrics_and_readiness_follow_the_upstream(operated):
    """
    Numbers agree with what was asked; ready follows the upstream, but for what is kept.
    """
    for tcp in (False, True, False):
        assert ask(operated, tcp) == 0
    code, text = get(operated, "/metrics")
    assert code == 200
    numbers = dict(re.findall(r"^(dotproxy.*) (\S+)$", text, re.MULTILINE))
    assert float(numbers['dotproxy_answers_total{rcode="NOERROR",transport="udp",type="A"}']) == 2
    assert float(numbers['dotproxy_answers_total{rcode="NOERROR",transport="tcp",type="A"}']) == 1
    missed = float(numbers['dotproxy_cache_lookups_total{result="missed"}'])
    assert 1 <= missed <= operated.workers  # over TCP it may be the other's client
    for purpose in ("upstream", "bootstrap"):
        assert float(numbers[f'dotproxy_plaintext_queries_total{{purpose="{purpose}"}}']) == 0
    label = f'upstream="dot.test (127.0.0.1:{operated.server.port})"'
    assert float(numbers[f'dotproxy_upstream_answers_total{{rcode="NOERROR",{label}}}']) == missed
    assert "lab.example" not in text
    assert [get(operated, path)[0] for path in ("/healthz", "/readyz", "/status", "/nothing")] == [200, 200, 200, 404]
    assert get(operated, "/flush", "POST")[0] == 404
    operated.server.stop()
    assert f"{pluralized(round(missed), 'response')} flushed" in told(operated, "cache", "flush")
    assert ask(operated) == 2

    def is_not_ready() -> bool:
        for number in range(5):  # so that each of several workers has asked
            operated.ask(dns.message.make_query(f"n{number}.lab.example.", "A").to_wire())
        return get(operated, "/readyz")[0] == 503

    wait_until(is_not_ready, "it is not ready")
    assert "every upstream is down" in get(operated, "/readyz")[1]
    assert get(operated, "/healthz")[0] == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_plaintext_bootstrap_lookups_are_counted(workers, authority, serve, proxy, tmp_path):
    """
    With bootstrap = udp://…, each lookup that leaves without TLS is counted, by every worker, and status tells it.
    """
    certificate = authority.issue(["dot.lab.example", "127.0.0.1"])
    looks_up, named = serve(Nsd, zone=ZONE + "dot A 127.0.0.1\n"), serve(certificate=certificate)
    plain = Backend(looks_up.folder)
    plain.start()
    port, path = free_port(), tmp_path / "admin"
    options = ("--bootstrap", f"udp://127.0.0.1:{plain.port}", "--admin-listen", f"127.0.0.1:{port}")
    options += ("--admin-socket", str(path), "--workers", workers)
    try:
        program = proxy(f"tls://dot.lab.example:{named.port}", options=options)
        program.admin_port, program.admin_path = port, path
        for number in range(20):  # so that each worker has asked
            query = dns.message.make_query(f"n{number}.wild.lab.example.", "A")
            assert dns.message.from_wire(program.ask(query.to_wire())).rcode() == 0
        text = get(program, "/metrics")[1]
        values = re.findall(r"^dotproxy_plaintext_queries_total(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
        assert sum(float(value) for _, value in values) == 2 * int(workers)  # A and AAAA
        assert ('purpose="bootstrap"', f"{2 * int(workers)}.0") in values
        assert f"left without TLS: {2 * int(workers)} queries for bootstrap" in told(program, "status")
    finally:
        plain.stop()


def test_promtool_accepts_the_metrics(operated):
    """
    promtool check metrics is content with names, types and help.
    """
    ask(operated)
    text = get(operated, "/metrics")[1]
    done = subprocess.run(
        [which("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_socket_commands_work_for_the_owner(operated):
    """
    What can be done over the socket, and by its owner alone.
    """
    assert operated.admin_path.stat().st_mode & 0o777 == 0o600
    ask(operated)
    status = json.loads(told(operated, "status", "--json").partition(" ")[2])
    assert (status["ready"], status["answers"], status["cache"]["entries"]) == (True, 1, 1)
    assert status["upstreams"][0]["state"] == "up"
    assert re.search(r"dot\.test \(127\.0\.0\.1:\d+\) +up ", told(operated, "status"))
    assert told(operated, "cache", "flush", "lab.example") == "0 0 responses flushed\n"
    assert told(operated, "cache", "flush", "lab.example", "--subtree") == "0 1 response flushed\n"
    assert told(operated, "cache", "flush", "a..b").startswith("1 dotproxy cache: label of 0 octets")
    assert told(operated, "cache", "stats").startswith("0 cache: 0 answers")
    assert told(operated, "log", "debug") == "0 "
    assert told(operated, "reload") == "0 nothing has changed\n"
    assert told(operated, "drain") == "0 stopping\n"
    assert operated.process.wait(10) in (0, -signal.SIGTERM)
    assert not operated.admin_path.exists()
    assert "is dotproxy running" in told(operated, "status") or "No such file" in told(operated, "status")


def test_stale_admin_socket_is_replaced(operated):
    """
    Is cleared away with the next start.
    """
    operated.stop(signal.SIGKILL)
    assert operated.admin_path.exists()
    operated.start()
    wait_until(lambda: told(operated, "log", "info") == "0 ", "it listens there")


def test_healthcheck_ignores_the_upstreams(operated):
    """
    Whether it answers, whatever its upstreams do.
    """
    command = [sys.executable, "-m", "dotproxy", "healthcheck"]
    environ = {**operated.environment(), "DOTPROXY_LISTEN": f"127.0.0.1:{operated.port}"}
    operated.server.stop()
    assert subprocess.run(command, env=environ, check=False).returncode == 0
    operated.stop()
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no response from 127.0.0.1" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("is_changed", [False, True], ids=["the same", "another upstream"])
def test_reloads_under_load_lose_no_query(is_changed, workers, authority, ca_file, tmp_path, proxy):
    """
    SIGHUP again and again loses no question, and costs the upstream that stays no connection.
    """
    certificate, key = authority.issue(["dot.test"]).write(tmp_path, "server")
    servers = [Misbehaving(tmp_path, "healthy", certificate, key, 1) for _ in range(2)]
    for server in servers:
        server.start()
    file = tmp_path / "dotproxy.toml"
    first, second = (server.upstream for server in servers)
    file.write_text(f'upstream = ["{first}"]\n')
    program = proxy(options=("--config", str(file), "--log-level", "debug", "--workers", workers))
    enough = threading.Event()

    def reload() -> None:
        turn = 0
        while not enough.wait(0.2):
            turn += 1
            if is_changed:
                upstreams = f'"{first}", "{second}"' if turn % 2 else f'"{first}"'
                file.write_text(f'upstream = [{upstreams}]\npolicy = "round_robin"\n')
            program.process.send_signal(signal.SIGHUP)

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            counted = Steady(client, program.host, program.port).ask(500, 4)
    finally:
        enough.set()
        thread.join()
        for server in servers:
            server.stop()
    assert (counted.lost, counted.servfail, counted.right) == (0, 0, counted.asked)
    said = program.said()
    assert said.count("configuration read: ") >= 15
    assert ("is new" in said) == is_changed
    # One line for the log level.
    assert said.count(f"connected to 127.0.0.1:{servers[0].port}") <= 2 * program.workers


def test_reload_with_a_mistake_changes_nothing(operated):
    """
    It is told, and everything stays as it was.
    """
    ask(operated)
    operated.file.write_text('upstream = ["nonsense:"]\npaddin = 3\n')
    operated.process.send_signal(signal.SIGHUP)
    wait_until(lambda: operated.said().count("the configuration stays as it was: ") == 2, "both mistakes are told")
    assert ask(operated) == 0
    assert "1 dotproxy reload: " in told(operated, "reload")


def test_reload_of_a_half_written_file_changes_nothing(operated):
    """
    What was given about who is asked and served does not fall back to the default, over the socket and by SIGHUP: one
    line for each key, exit code 1, and the old configuration serves.  Written out, it is accepted.
    """
    whole = f'upstream = ["{operated.server.upstream}"]\nallow_from = ["127.0.0.0/8"]\n'
    operated.file.write_text(whole)
    assert "0 allow_from is 127.0.0.0/8, was " in told(operated, "reload")
    operated.file.write_text("padding = 256\n")
    operated.process.send_signal(signal.SIGHUP)
    wait_until(lambda: operated.said().count("the configuration stays as it was: ") == 2, "both keys are told")
    code, lines = told(operated, "reload").split(" ", 1)
    assert code == "1"
    first, second = lines.splitlines()
    begin = "nothing sets it any more, and it would fall back from"
    shown = f"tls://127.0.0.1:{operated.server.port}#dot.test"
    assert first == (
        f"dotproxy reload: upstream: {begin} {shown} to the default, cloudflare quad9; if that is meant, write"
        ' upstream = ["cloudflare", "quad9"], or restart'
    )
    assert second.startswith(f"allow_from: {begin} 127.0.0.0/8 to the default, 127.0.0.0/8 10.0.0.0/8 ")
    operated.file.write_text("")
    assert "sets nothing; write at least upstream = " in told(operated, "reload")
    assert ask(operated) == 0
    status = json.loads(told(operated, "status", "--json").partition(" ")[2])
    assert [one["name"] for one in status["upstreams"]] == [f"dot.test (127.0.0.1:{operated.server.port})"]
    operated.file.write_text(f'{whole.splitlines()[0]}\nallow_from = ["127.0.0.0/8", "10.0.0.0/8"]\npadding = 64\n')
    assert told(operated, "reload").startswith("0 allow_from is 127.0.0.0/8 10.0.0.0/8, was 127.0.0.0/8\npadding is 64")
    assert ask(operated) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_inherited_sockets_outlive_a_restart(workers, serve, ca_file, tmp_path):
    """
    Sockets that are handed over are served, and outlive a restart: what is asked meanwhile waits in them.
    """
    server = serve()
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(tmp_path / "notify"))
    ear.settimeout(20)
    datagrams, streams = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
    port = free_port()
    datagrams.bind(("127.0.0.1", port))
    streams.bind(("127.0.0.1", port))
    streams.listen(64)
    hand_over = (
        "import os, sys; [os.dup2(int(fd), 3 + n) for n, fd in enumerate(sys.argv[1:3])];"
        " os.environ['LISTEN_PID'] = str(os.getpid());"
        " [os.set_inheritable(fd, True) for fd in (3, 4)];"
        " os.execv(sys.executable, [sys.executable, '-m', 'dotproxy', 'run', *sys.argv[3:]])"
    )
    options = ["--ca-file", str(ca_file), "--upstream", server.upstream, "--workers", workers]
    environ = {**os.environ, "LISTEN_FDS": "2", "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    log = (tmp_path / "log").open("wb")

    def start() -> subprocess.Popen[bytes]:
        descriptors = [os.dup(one.fileno()) for one in (datagrams, streams)]
        high = [os.dup2(fd, 60 + n) for n, fd in enumerate(descriptors)]
        process = subprocess.Popen(
            [sys.executable, "-c", hand_over, *map(str, high), *options],
            pass_fds=high,
            env=environ,
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )
        for fd in (*descriptors, *high):
            os.close(fd)
        return process

    def hear(wanted: str) -> None:
        deadline = time.monotonic() + 20
        while wanted not in ear.recv(4096).decode():
            assert time.monotonic() < deadline

    process = start()
    try:
        hear("READY=1\nSTATUS=1 of 1 upstreams verified")
        hear("WATCHDOG=1")
        with socket.socket(type=socket.SOCK_DGRAM) as client, socket.create_connection(("127.0.0.1", port)) as over_tcp:
            client.settimeout(20)
            over_tcp.settimeout(20)
            client.connect(("127.0.0.1", port))
            client.send(WWW.to_wire())
            assert dns.message.from_wire(client.recv(4096)).rcode() == 0
            over_tcp.sendall(len(WWW.to_wire()).to_bytes(2, "big") + WWW.to_wire())
            assert dns.message.from_wire(over_tcp.recv(4096)[2:]).rcode() == 0
            process.terminate()
            hear("STOPPING=1")
            process.wait(10)
            client.send(WWW.to_wire())
            process = start()
            assert dns.message.from_wire(client.recv(4096)).rcode() == 0
    finally:
        process.terminate()
        process.wait(10)
        for one in (ear, datagrams, streams, log):
            one.close()
    assert f"listening on 127.0.0.1:{port} (UDP, TCP)" in Path(tmp_path / "log").read_text()


def test_second_signal_stops_at_once(serve, proxy):
    """
    The first waits for what is outstanding, the second for nothing.
    """
    server = serve()
    program = proxy(server.upstream)
    ask(program)
    server.process.send_signal(signal.SIGSTOP)
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect((program.host, program.port))
            client.send(WWW.to_wire())
            time.sleep(0.1)
            began = time.monotonic()
            program.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            program.process.send_signal(signal.SIGTERM)
            assert dns.message.from_wire(client.recv(4096)).rcode() == 2
            assert time.monotonic() - began < 1.5
        program.process.wait(10)
    finally:
        server.process.send_signal(signal.SIGCONT)
