"""
Clients over TCP that take more than is theirs: what it costs in memory, and what others notice.
"""

import contextlib
import selectors
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import pytest

from dotproxy.testing.client import make_query
from dotproxy.wire.framing import Deframer, frame
from tests.integration.programs import PATIENCE, Proxy, wait_until, which
from tests.integration.servers import Bind
from tests.misbehaving.matrix import Misbehaving

A, TXT = 1, 16

HOSTILE = "127.0.0.66"


def resident(pid: int) -> float:
    """
    Megabytes that a process has in memory.
    """
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def cpu_seconds(pid: int) -> float:
    """
    How long a process has run so far, on a processor.
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.contextmanager
def connections(proxy: Proxy, count: int) -> Iterator[list[socket.socket]]:
    """
    So many connections of one client; some of them may be closed by the proxy.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(count)]
        for client in opened:
            client.bind((HOSTILE, 0))
            client.settimeout(PATIENCE)
            client.connect((proxy.host, proxy.port))
        yield opened


def send_all(clients: list[socket.socket], octets: bytes, patience: float) -> None:
    """
    Send this over each connection, as far as it is taken, and read nothing.
    """
    deadline = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        for client in clients:
            client.setblocking(False)
            selector.register(client, selectors.EVENT_WRITE, [octets])
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(0.05):
                left = key.data
                try:
                    left[0] = left[0][key.fileobj.send(left[0]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    left[0] = b""
                if not left[0]:
                    selector.unregister(key.fileobj)


def asked_over_udp(proxy: Proxy, count: int) -> list[float]:
    """
    Ask one after the other; return how long the proxy had a processor before each response.
    """
    took: list[float] = []
    for number in range(count):
        begun = cpu_seconds(proxy.pid)
        reply = proxy.ask(make_query("localhost.", A, ident=number))
        took.append(cpu_seconds(proxy.pid) - begun)
        assert reply[:2] == struct.pack("!H", number)
    return took


@pytest.fixture
def silent(authority, tmp_path) -> Iterator[Misbehaving]:
    """
    An upstream that can be verified, and answers nothing.
    """
    certificate, key = authority.issue(["dot.test"]).write(tmp_path, "silent")
    server = Misbehaving(tmp_path, "silent_always", certificate, key, 1)
    server.log.touch()
    server.start()
    yield server
    server.stop()


def test_unread_responses_cost_bounded_memory(serve, proxy):
    """
    250 connections ask 128 times each for a response of 60,000 octets that is in the cache, and read nothing: that
    costs less than 60 MB, and whoever asks over UDP waits for less than 50 ms of work.
    """
    started = proxy(serve(Bind).upstream, cache=True)
    query = make_query("huge.lab.example.", TXT)
    assert len(started.ask(query, tcp=True)) > 55_000
    before = resident(started.pid)
    with connections(started, 250) as clients:
        send_all(clients, frame(query) * 128, 5)
        took = asked_over_udp(started, 50)
        assert resident(started.pid) - before < 60
        assert statistics.median(took) < 0.05


def test_late_reader_gets_every_response_in_order(serve, proxy):
    """
    Whoever reads late gets every response, whole and in order.
    """
    started = proxy(serve(Bind).upstream, cache=True)
    whole = started.ask(make_query("huge.lab.example.", TXT), tcp=True)
    with connections(started, 1) as (client,):
        queries = [make_query("huge.lab.example.", TXT, ident=number) for number in range(100)]
        client.sendall(b"".join(map(frame, queries)))
        time.sleep(0.3)
        deframer, got = Deframer(), []
        while len(got) < len(queries):
            octets = client.recv(1 << 16)
            assert octets, len(got)
            got += deframer.feed(octets)
    assert [int.from_bytes(reply[:2], "big") for reply in got] == list(range(100))
    assert {len(reply) for reply in got} == {len(whole)}


def test_busy_connections_of_one_client_leave_room_for_others(proxy, silent):
    """
    300 connections of one client, each of which is owed a response: all others that connect are served.
    """
    started = proxy(silent.upstream, options=("--query-timeout", "30"))
    with connections(started, 300) as clients:
        for number, client in enumerate(clients):
            with contextlib.suppress(OSError):
                client.sendall(frame(make_query(f"n{number}.lab.example.", A)))
        time.sleep(0.5)
        served = 0
        for number in range(120):
            with contextlib.suppress(OSError):
                source = f"127.0.1.{number % 60 + 1}"
                served += len(started.ask(make_query("localhost.", A), tcp=True, source=source)) > 12
    assert served == 120


def test_overlong_queries_are_formerr_without_growth(serve, proxy):
    """
    2,000 queries of 60,000 octets over 50 connections are FORMERR, and cost no memory.
    """
    started = proxy(serve().upstream)
    query = make_query("www.lab.example.", A)
    query = query[:11] + b"\1" + query[12:]
    query += struct.pack("!BHHIHHH", 0, 41, 1232, 0, 60_004, 65_001, 60_000) + b"x" * 60_000
    assert started.ask(query, tcp=True)[3] & 15 == dns.rcode.FORMERR
    before = resident(started.pid)
    with connections(started, 50) as clients:
        send_all(clients, frame(query) * 40, PATIENCE)
        replies = 0
        for client in clients:
            client.settimeout(PATIENCE)
            deframer, got = Deframer(), []
            while len(got) < 40:
                octets = client.recv(1 << 16)
                assert octets
                got += deframer.feed(octets)
            replies += sum(reply[3] & 15 == dns.rcode.FORMERR for reply in got)
    assert replies == 2000
    assert resident(started.pid) - before < 10


def test_half_frames_cost_little_memory(serve, proxy):
    """
    250 connections over which most of a message of 60,000 octets has come, and no more does, cost little memory; others
    connect.
    """
    started = proxy(serve().upstream)
    before = resident(started.pid)
    with connections(started, 256) as clients:
        send_all(clients, struct.pack("!H", 60_000) + b"x" * 59_000, PATIENCE)
        for _ in range(10):
            assert started.ask(make_query("localhost.", A), tcp=True, source="127.0.1.1")
        assert resident(started.pid) - before < 10


def test_pipelining_clients_do_not_delay_udp(serve, proxy, tmp_path):
    """
    While 250 connections have 64 queries outstanding each, UDP is read in its turn: whoever asks over UDP waits for 20
    ms of work and less, and never for long.
    """
    started = proxy(serve().upstream)
    names = tmp_path / "names"
    names.write_text("".join(f"n{number}.localhost A\n" for number in range(1000)))
    line = ["-m", "tcp", "-a", HOSTILE, "-s", started.host, "-p", str(started.port), "-d", str(names)]
    line += ["-c", "250", "-q", "16000", "-l", "20", "-t", "30"]
    with subprocess.Popen([which("dnsperf"), *line], stdout=subprocess.DEVNULL) as load:
        begun = cpu_seconds(started.pid)
        wait_until(lambda: cpu_seconds(started.pid) - begun > 0.2, "the load has begun")
        took = asked_over_udp(started, 100)
        assert load.poll() is None
        load.terminate()
    assert statistics.median(took) < 0.02
    assert max(took) < 0.1
