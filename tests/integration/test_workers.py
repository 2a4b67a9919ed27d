"""
Several processes that are one proxy, and what happens when one of them ends.
"""

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

import dns.edns
import dns.message
import pytest

from tests.integration.programs import Proxy, free_port, wait_until
from tests.misbehaving.matrix import Misbehaving
from tests.misbehaving.steady import Counted, Steady

WWW = dns.message.make_query("www.lab.example.", "A", use_edns=0).to_wire()


@pytest.fixture
def crew(authority, proxy, tmp_path):
    """
    A proxy that is two processes.
    """
    port, path = free_port(), tmp_path / "admin"
    options = ("--workers", "2", "--admin-listen", f"127.0.0.1:{port}", "--admin-socket", str(path))
    certificate, key = authority.issue(["dot.test"]).write(tmp_path, "server")
    server = Misbehaving(tmp_path, "healthy", certificate, key, 1)
    server.start()
    program: Proxy = proxy(server.upstream, options=options, cache=True)
    program.admin_path = path
    yield program
    server.stop()


def workers(program: Proxy) -> list[int]:
    """
    The processes that serve now.
    """
    children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def status(program: Proxy) -> dict:
    """
    What it says of itself.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dotproxy", "status", "--json", "--socket", str(program.admin_path)],
        capture_output=True,
        text=True,
        check=True,
        env=program.environment(),
        cwd=program.log.parent,
    )
    return json.loads(done.stdout)


def ask_by_many(program: Proxy, clients: int, rate: float, seconds: float, events: dict) -> list[Counted]:
    """
    So many clients, each on a socket of its own, at so many questions a second each.
    """
    counted: list[Counted] = []

    def ask(number: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            steady = Steady(client, program.host, program.port)
            steady._number = number * 1_000_000
            counted.append(steady.ask(rate, seconds, events if not number else None))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counted


def test_killed_worker_is_replaced(crew):
    """
    Clients lose at most what was in that worker, nobody waits for a second, and there are two again.
    """
    first = workers(crew)
    killed: list[int] = []

    def kill() -> None:
        killed.append(workers(crew)[0])
        os.kill(killed[0], signal.SIGKILL)

    counted = ask_by_many(crew, 8, 150, 5, {2.0: kill})
    assert sum(one.lost for one in counted) <= 60  # 1,200 questions a second, and 50 ms to answer at most
    assert all((one.wrong, one.servfail) == (0, 0) for one in counted)
    gaps = [
        b - a for one in counted for a, b in zip(sorted(one.answered_at), sorted(one.answered_at)[1:], strict=False)
    ]
    assert max(gaps) < 1.0
    wait_until(lambda: len(workers(crew)) == 2 and killed[0] not in workers(crew), "there are two again")
    assert set(first) - set(killed) <= set(workers(crew))
    wait_until(lambda: len(status(crew)["workers"]) == 2, "and both serve")
    known = status(crew)
    # What that worker had counted since it was last looked at is not known any more.
    asked = sum(one.asked for one in counted)
    assert asked - 1300 <= known["answers"] <= asked
    assert known["worker_restarts"] == 1
    assert re.search(rf"worker [12] \({killed[0]}\) has ended: signal 9; the next is started at once", crew.said())


def test_queries_are_answered_whichever_worker_dies(crew):
    """
    Each of them, and both at once, over UDP and TCP.
    """
    for which in (0, 1, -1):
        before = workers(crew)
        for pid in before if which < 0 else [before[which]]:
            os.kill(pid, signal.SIGKILL)
        for tcp in (False, True) * 4:
            if not tcp or which >= 0:
                assert dns.message.from_wire(crew.ask(WWW, tcp=tcp)).answer
        wait_until(lambda: len(status(crew)["workers"]) == 2, "there are two again")


def test_clients_are_spread_over_workers(crew):
    """
    Clients are spread over them, over either transport.
    """
    for tcp in (False, True):
        for _ in range(40):
            assert dns.message.from_wire(crew.ask(WWW, tcp=tcp)).answer
    known = status(crew)
    assert known["answers"] == 80
    assert known["cache"]["missed"] == 2
    assert known["cache"]["entries"] == 2


def test_workers_share_cookie_and_log_secrets(serve, proxy):
    """
    A client's cookie, and its name in the query log, do not tell who answers (RFC 7873 §6).
    """
    options = ("--workers", "2", "--udp-cookies", "yes", "--query-log", "hashed")
    program = proxy(serve().upstream, options=options)
    cookies = set()
    for number in range(20):
        query = dns.message.make_query(f"n{number}.wild.lab.example.", "A", use_edns=0)
        query.use_edns(0, options=[dns.edns.GenericOption(10, b"12345678")])
        reply = dns.message.from_wire(program.ask(query.to_wire()))
        cookies |= {option.to_wire() for option in reply.options}
    assert len(cookies) == 1
    wait_until(lambda: len(re.findall(r"\budp [0-9a-f]{16} ", program.said())) >= 20, "all are logged")
    logged = re.findall(r"worker (\d): udp ([0-9a-f]{16}) ", program.said())
    assert {worker for worker, _ in logged} == {"1", "2"}
    assert len({client for _, client in logged}) == 1


def test_worker_ends_with_its_supervisor(crew):
    """
    A worker ends, too.
    """
    orphans = workers(crew)
    crew.stop(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans), "they have ended")


@pytest.mark.parametrize("everybody", [False, True], ids=["the supervisor", "everybody"])
def test_stop_answers_queries_and_leaves_no_process(everybody, crew):
    """
    By a signal to the supervisor, or to all of them, as a terminal and systemd send it: what is outstanding is
    answered, and nothing is left.
    """
    all_of_them = [crew.process.pid, *workers(crew)]
    counted: list[Counted] = []
    thread = threading.Thread(target=lambda: counted.extend(ask_by_many(crew, 2, 200, 1, {})))
    thread.start()
    time.sleep(1.2)
    for pid in all_of_them if everybody else all_of_them[:1]:
        os.kill(pid, signal.SIGTERM)
    assert crew.process.wait(10) in (0, -signal.SIGTERM)
    thread.join()
    assert all(one.right == one.asked for one in counted)
    assert not any(Path(f"/proc/{pid}").exists() for pid in all_of_them[1:])
    assert "stopped" in crew.said()
    assert "Traceback" not in crew.said()


def test_hanging_worker_is_replaced(crew):
    """
    Is ended after ten seconds, and followed.
    """
    stuck = workers(crew)[0]
    os.kill(stuck, signal.SIGSTOP)
    wait_until(lambda: stuck not in workers(crew), "it is ended")
    wait_until(lambda: len(status(crew)["workers"]) == 2, "there are two again")
    assert f"({stuck}) does not respond: it is killed" in crew.said()
    for _ in range(20):
        assert dns.message.from_wire(crew.ask(WWW)).answer


def test_each_worker_has_its_cache_file(serve, proxy, tmp_path):
    """
    What is kept is kept by each, since each has names of its own.
    """
    kept = tmp_path / "kept"
    upstream = serve().upstream
    options = ("--workers", "2", "--cache-file", str(kept))
    program = proxy(upstream, options=options, cache=True)
    for number in range(20):
        query = dns.message.make_query(f"n{number}.wild.lab.example.", "A").to_wire()
        assert dns.message.from_wire(program.ask(query)).answer
    assert program.stop() in (0, -signal.SIGTERM)
    program = proxy(upstream, options=options, cache=True)
    for name in ("kept.1", "kept.2"):
        wait_until(lambda name=name: f"responses from {tmp_path / name}" in program.said(), "both have been read")
    assert sum(map(int, re.findall(r"(\d+) responses from", program.said()))) == 20


def test_port_of_another_program_is_not_shared(proxy, serve):
    """
    Nobody is made to share with us.
    """
    other = proxy(serve().upstream, options=("--workers", "2"))
    with pytest.raises(AssertionError, match="the address is in use"):
        proxy(serve().upstream, options=("--workers", "2"), listen=f"127.0.0.1:{other.port}")
