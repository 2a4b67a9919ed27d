"""
Servers that do with TLS what servers do not do, after the handshake and before.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from dotproxy.testing.certificates import Authority
from tests.integration.hostile_tls import RAW
from tests.integration.programs import Program, Proxy, wait_until

#: One of them in each run of the tests, and all in ``make soak``.
FLOODS = [
    "key_updates_both_ways",
    *(pytest.param(mode, marks=pytest.mark.soak) for mode in ("tickets", "key_updates")),
]


class Hostile(Program):
    """
    The server, in one mode.
    """

    def __init__(self, folder: Path, mode: str, authority: Authority) -> None:
        super().__init__(folder / f"{mode}.log")
        self.mode = mode
        self.files = [
            *authority.issue(["dot.test"]).write(folder, "right"),
            *authority.issue(["other.test"]).write(folder, "other"),
        ]

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [sys.executable, "-m", "tests.integration.hostile_tls", self.mode, *map(str, self.files)]

    def environment(self) -> dict[str, str]:
        """
        It runs in a folder of its own.
        """
        return {**super().environment(), "PYTHONPATH": str(Path(__file__).parents[2])}

    def is_ready(self) -> bool:
        """
        It says its port.
        """
        return "port " in self.said()

    @property
    def upstream(self) -> str:
        """
        How dotproxy is told of it.
        """
        found = re.search(r"port (\d+)", self.said())
        assert found
        return f"tls://127.0.0.1:{found[1]}#dot.test"


@pytest.fixture
def hostile(tmp_path: Path, authority: Authority) -> Iterator[Callable[[str], Hostile]]:
    """
    Start one; it ends with the test.
    """
    started: list[Hostile] = []

    def start(mode: str) -> Hostile:
        started.append(Hostile(tmp_path, mode, authority))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


def ask(program: Proxy, name: str) -> str:
    """
    Return the rcode and the address.
    """
    reply = dns.message.from_wire(program.ask(dns.message.make_query(name, "A").to_wire()))
    return f"{dns.rcode.to_text(reply.rcode())} {' '.join(rr.to_text() for rrset in reply.answer for rr in rrset)}"


def cost(program: Proxy) -> tuple[float, float]:
    """
    Return the CPU seconds a program has taken, and its memory in MB.
    """
    fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100, int(fields[21]) * 4096 / 1e6


def test_no_query_is_sent_after_a_renegotiation(hostile, proxy):
    """
    A TLS 1.2 server that shakes hands again, with another certificate, after its first answer: no query is sent over
    that connection any more; each is answered over another one.
    """
    server = hostile("renegotiates")
    program = proxy(server.upstream)
    for number in range(5):
        assert ask(program, f"q{number}.lab.example.") == "NOERROR 192.0.2.1"
        assert "with the other certificate" not in server.said()
        wait_until(lambda number=number: server.said().count("asked to renegotiate") == number + 1, "it has asked")
    print(f"\n{server.said()}")
    assert server.said().count("with the first certificate") == 5


@pytest.mark.parametrize("mode", FLOODS)
def test_tls_message_floods_end_the_connection(mode, hostile, serve, proxy):
    """
    Tickets and key updates without end cost a connection, not the proxy: other upstreams go on, memory does not grow,
    and each such connection ends soon.
    """
    server, healthy = hostile(mode), serve()
    program = proxy(server.upstream, healthy.upstream)
    assert ask(program, "www.lab.example.") == "NOERROR 192.0.2.1"
    took: list[float] = []
    spent, grown = [], []
    while not grown or (grown[-1] >= 20 and len(grown) < 3):  # garbage is collected; a leak would show in each period
        cpu, memory = cost(program)
        took += seconds_of(program, 4)
        after, now = cost(program)
        spent.append(after - cpu)
        grown.append(now - memory)
    wait_until(lambda: "ended by" in server.said(), "a flood has ended")
    sizes = [int(size) for size in re.findall(r"flood of (\d+) ended", server.said())]
    print(
        f"\n{mode}: {len(took)} queries, the slowest {max(took) * 1000:.0f} ms; CPU {spent[0]:.2f} s in 4 s;"
        f" memory {grown[0]:+.1f} MB; floods of {sizes[:5]}"
    )
    assert "ended by nobody" not in server.said()
    assert max(sizes) < 15_000
    assert grown[-1] < 20, grown


def seconds_of(program: Proxy, seconds: float) -> list[float]:
    """
    Ask for so long; return how long each response took.
    """
    took: list[float] = []
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        asked = time.monotonic()
        assert ask(program, "www.lab.example.") == "NOERROR 192.0.2.1"
        took.append(time.monotonic() - asked)
        time.sleep(0.02)
    return took


@pytest.mark.parametrize("mode", RAW)
def test_floods_before_the_handshake_end_the_connection(mode, hostile, serve, proxy):
    """
    Whatever comes in place of a handshake ends with the connection, after ``connect_timeout`` at the latest; memory
    does not grow, and other upstreams go on.
    """
    server, healthy = hostile(mode), serve()
    program = proxy(server.upstream, healthy.upstream, options=("--connect-timeout", "1"))
    assert ask(program, "www.lab.example.") == "NOERROR 192.0.2.1"
    cpu, memory = cost(program)
    wait_until(lambda: "ended by" in server.said(), "a flood has ended", 10)
    after, grown = cost(program)
    size, who, seconds = re.findall(r"flood of (\d+) ended by (.*) after (.*) s", server.said())[0]
    print(f"\n{mode}: {size} octets in {seconds} s; CPU {after - cpu:.2f} s; memory {grown - memory:+.1f} MB")
    assert who == "the client"
    assert float(seconds) < 3
    assert grown - memory < 20
    assert ask(program, "www.lab.example.") == "NOERROR 192.0.2.1"
