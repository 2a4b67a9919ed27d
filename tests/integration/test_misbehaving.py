"""
Upstreams that misbehave, beside one that does not: no client is told of it.

Some modes are tried in each run of the tests, all of them for as long as in docs/misbehaviour.md in ``make soak``; that
table, with times, is made by ``tests.misbehaving.matrix``.
"""

import re
import socket
import tempfile
from pathlib import Path

import pytest

from tests.integration.programs import Proxy, wait_until
from tests.misbehaving.matrix import Misbehaving, measure
from tests.misbehaving.modes import MODES
from tests.misbehaving.steady import Steady

#: Modes with questions a second, and seconds.
SHORT = [
    *("closes_after_3", "reset_odd", "silent_odd", "late", "stray_id", "garbage_octets", "servfail_half", "refuses"),
    *("drops_tenth", "flaps", "truncates", "half_closes", "keepalive_0", "no_handshake"),
]
BESIDE = [
    *(pytest.param(mode, 150, 1.0, id=mode) for mode in SHORT),
    *(pytest.param(mode, 300, 6.0, id=f"{mode}, in full", marks=pytest.mark.soak) for mode in MODES),
]
#: What clients get right even if there is nobody else.
ALONE = ["closes_each", "one_at_a_time", "octet_by_octet", "alerts", "half_closes"]


@pytest.fixture
def start(authority, tmp_path: Path):
    """
    Start a server of some mode.
    """
    certificate, key = authority.issue(["dot.test"]).write(tmp_path, "server")
    started: list[Misbehaving] = []

    def begin(mode: str) -> Misbehaving:
        server = Misbehaving(Path(tempfile.mkdtemp(dir=tmp_path)), mode, certificate, key, 1)
        started.append(server)
        server.start()
        return server

    yield begin
    for server in started:
        server.stop()


@pytest.mark.parametrize(("mode", "rate", "seconds"), BESIDE)
def test_misbehaving_upstream_beside_a_healthy_one_costs_nothing(mode, rate, seconds, start, ca_file, tmp_path):
    """
    Every question is answered, and rightly (RFC 7766 §6.2.4, RFC 9520 §3.1).
    """
    counted = measure(tmp_path, start, ca_file, [mode, "healthy"], rate, seconds)
    assert (counted.right, counted.servfail, counted.wrong, counted.lost) == (counted.asked, 0, 0, 0)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("mode", ["hangs_up", "hangs_up_rudely"])
def test_hanging_up_at_some_names_costs_other_names_nothing(mode, workers, start, ca_file, tmp_path):
    """
    Those names are SERVFAIL, all others are answered (RFC 9520 §3.1).
    """
    counted = measure(tmp_path, start, ca_file, [mode], 150, 2.0, ("--workers", workers))
    assert 0 < counted.bad < counted.asked / 10
    assert (counted.right, counted.servfail) == (counted.asked - counted.bad, counted.bad)
    assert (counted.wrong, counted.lost) == (0, 0)


@pytest.mark.parametrize("mode", ALONE)
def test_misbehaving_upstream_alone_answers_everything(mode, start, ca_file, tmp_path):
    """
    What can be answered is (RFC 7766 §6.2.4).
    """
    counted = measure(tmp_path, start, ca_file, [mode], 100, 1.0)
    assert (counted.right, counted.servfail, counted.wrong, counted.lost) == (counted.asked, 0, 0, 0)


@pytest.mark.soak
def test_many_connections_leak_nothing(start, proxy):
    """
    Connection after connection under load: neither descriptors nor memory grow.  (What a busy machine makes wait takes
    memory too, once; a leak would show in each period.)
    """
    program: Proxy = proxy(start("closes_after_3").upstream)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as socket_:
        client = Steady(socket_, program.host, program.port)
        assert client.ask(500, 2).lost == 0
        few = descriptors(program)
        grown = []
        while not grown or (grown[-1] >= 2048 and len(grown) < 3):
            before = resident(program)
            counted = client.ask(500, 7)
            assert (counted.lost, counted.right) == (0, counted.asked)
            grown.append(resident(program) - before)
    wait_until(lambda: descriptors(program) <= few, "as few descriptors as before")
    assert grown[-1] < 2048, grown


def descriptors(program: Proxy) -> int:
    """
    How many files and sockets a program has open.
    """
    return len(list(Path(f"/proc/{program.process.pid}/fd").iterdir()))


def resident(program: Proxy) -> int:
    """
    What memory a program has, in KiB.
    """
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])
