"""
The measurement of attacks: its books are exact, its attackers send what they are said to send, and its upstream answers
as each zone says.  Speeds are not judged here.
"""

import contextlib
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dns.message
import pytest

from benchmarks import attack_good
from benchmarks.attack import HEAD, lines
from benchmarks.attack_forwarders import AttackedDnsdist, AttackedUnbound, attacked_dotproxies
from benchmarks.attack_good import Asked, Books, Outcome, OverKeptTcp, OverTcp, OverUdp, normal_after
from benchmarks.attack_queries import KINDS, Zone, fixed_name, packets
from benchmarks.attack_rows import HOSTILE, chosen, every_attack
from benchmarks.attack_run import AttackUpstream, SlowUpstream, measure
from benchmarks.attack_sender import ADDRESS, flood
from benchmarks.attack_streams import BEHAVIOURS, Swarm
from benchmarks.bench import Bench
from benchmarks.forwarders import Source
from benchmarks.scripted import answer
from dotproxy.testing.client import make_query
from dotproxy.wire.framing import frame
from tests.integration.programs import read_message, wait_until

pytestmark = pytest.mark.soak


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def replies(query: bytes) -> list[bytes]:
    """Of five queries one is answered, one fails, one is dropped, one has a wrong address, and one is truncated."""
    right = answer(query)
    wrong = right.replace(bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)))
    truncated = right[:2] + bytes((right[2] | 2,)) + right[3:]
    return ([right], [answer(query, 2)], [], [wrong], [truncated])[int.from_bytes(query[:2]) % 5]


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None], kind: socket.SocketKind) -> Iterator[int]:
    with socket.socket(type=kind) as server:
        server.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            server.listen(512)

        def run() -> None:
            with contextlib.suppress(OSError, EOFError):
                serve(server)

        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR) if kind is socket.SOCK_STREAM else _wake(server)
        thread.join()


def _wake(server: socket.socket) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as last:
        last.sendto(b"", server.getsockname())


def fickle_datagrams(server: socket.socket) -> None:
    while True:
        query, client = server.recvfrom(4096)
        if not query:
            return
        for reply in replies(query):
            server.sendto(reply, client)


def fickle_streams(server: socket.socket) -> None:
    while True:
        stream = server.accept()[0]
        with stream, contextlib.suppress(EOFError):
            while True:
                found = replies(read_message(stream))
                if not found:
                    break  # closed, with the query unanswered
                stream.sendall(frame(found[0]))


@pytest.mark.parametrize(
    ("client", "serve", "kind"),
    [
        (OverUdp, fickle_datagrams, socket.SOCK_DGRAM),
        (OverTcp, fickle_streams, socket.SOCK_STREAM),
        (OverKeptTcp, fickle_streams, socket.SOCK_STREAM),
    ],
)
def test_each_query_of_the_good_client_ends_once(client, serve, kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_good, "PATIENCE", 0.3)
    with serving(serve, kind) as port, selectors.DefaultSelector() as selector:
        good = client(port, "lab.example")
        good.open(selector)
        for _ in range(50):
            good.ask()
            deadline = time.monotonic() + (0.3 if client is OverKeptTcp else 0.0)
            while good.expire(time.monotonic()) and time.monotonic() < deadline:
                for key, _events in selector.select(0.01):
                    key.data()
        while good.expire(time.monotonic()):
            for key, _events in selector.select(0.01):
                key.data()
        good.close()
        books = Books(good.asked)
        assert len(books.asked) == 50
        assert books.outcomes == {
            Outcome.NOERROR: 10,
            Outcome.SERVFAIL: 10,
            Outcome.LOST: 10,
            Outcome.OTHER: 20,
        }
        assert all(each.took > 0 for each in good.asked if each.outcome is not Outcome.LOST)


def test_half_of_the_names_are_asked_again_and_again() -> None:
    with selectors.DefaultSelector() as selector:
        good = OverUdp(9, "lab.example")
        good.open(selector)
        for _ in range(200):
            good.ask()
        good.close()
    names = [dns.message.from_wire(each.query).question[0].name for each in good.asked]
    assert len(set(names)) == 100 + attack_good.CACHED
    assert len({each.query[:2] for each in good.asked}) == 200


def asked(outcomes: dict[int, Outcome] | None = None, slow: Sequence[int] = ()) -> list[Asked]:
    made = []
    for number in range(200):
        outcome = (outcomes or {}).get(number, Outcome.NOERROR)
        made.append(Asked(b"", number / 50, outcome, 0.06 if number in slow else 0.001))
    return made


def test_all_is_normal_from_the_second_in_which_everything_is_answered() -> None:
    assert normal_after(asked(), 1.0) == 0.0
    assert normal_after(asked({50: Outcome.LOST}), 1.0) == pytest.approx(0.02)
    assert normal_after(asked(slow=(70, 71)), 1.0) == pytest.approx(0.42)  # one of fifty may be slow, two may not
    assert normal_after(asked({60: Outcome.SERVFAIL, 99: Outcome.PENDING}), 1.0) == pytest.approx(1.0)
    assert normal_after(asked(dict.fromkeys(range(50, 200, 49), Outcome.LOST)), 1.0) is None
    assert normal_after(asked({10: Outcome.LOST}), 1.0) == 0.0
    assert normal_after(asked()[:90], 1.0) is None  # less than a second of it


def test_packets_are_as_large_as_is_said() -> None:
    make = packets("tiny")
    tiny = {make(number)[2:] for number in range(1000)}
    assert {len(each) for each in tiny} == {57}
    assert len(tiny) == 1000
    assert len({each.lower() for each in tiny}) == 1
    make = packets("large")
    large = [make(number) for number in range(2)]
    assert all(60_000 < len(each) < 60_100 for each in large)
    assert dns.message.from_wire(large[0]).options[0].otype == 65001
    assert large[0][2:] != large[1][2:]


@pytest.mark.parametrize("kind", [each for each in KINDS if each != "junk"])
def test_packets_are_queries(kind: str) -> None:
    make = packets(kind)
    made = [dns.message.from_wire(make(number)) for number in range(300)]
    names = {each.question[0].name for each in made}
    assert len(names) == (300 if kind in {"huge-each", "mute", "none", "some-each", "large"} else 1)
    assert all(each.edns == 0 for each in made)


@pytest.mark.parametrize("is_spoofed", [False, True])
def test_a_flood_has_the_rate_and_the_source_it_is_said_to_have(*, is_spoofed: bool) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sent = flood(server.getsockname()[1], packets("none"), 500, 1.0, is_spoofed=is_spoofed)
        server.setblocking(False)
        sources: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                sources.append(server.recvfrom(4096)[1][0])
    assert 0 < sent.sent <= 501
    assert len(sources) == sent.sent
    assert 0.9 < sent.end - sent.begin < 10
    assert (len(set(sources)) > sent.sent * 0.99) if is_spoofed else (set(sources) == {ADDRESS})


def sink(server: socket.socket) -> None:
    """Accept connections and do nothing with them."""
    kept = []
    while True:
        kept.append(server.accept()[0])


def echo(server: socket.socket) -> None:
    """Give each message back, and close at the third of a connection."""
    while True:
        stream = server.accept()[0]
        with stream, contextlib.suppress(OSError, EOFError):
            for _ in range(2):
                stream.sendall(frame(read_message(stream)))
            read_message(stream)


@pytest.mark.parametrize(
    ("kind", "each", "asked"), [("noread", 3, 60), ("owed", 2, 40), ("total", 30, 30), ("idle", 1, 0), ("half", 1, 20)]
)
def test_each_connection_of_a_swarm_asks_what_it_is_to_ask(kind: str, each: int, asked: int) -> None:
    with serving(sink, socket.SOCK_STREAM) as port:
        with Swarm(ADDRESS, port, 20, BEHAVIOURS[kind](packets("some"), each)) as attack:
            attack.run(0.5)
        assert (attack.connected, attack.sent, attack.answers) == (20, asked, 0)


@pytest.mark.parametrize("kind", ["owed", "octets"])
def test_a_swarm_asks_again_and_connects_again(kind: str) -> None:
    with serving(echo, socket.SOCK_STREAM) as port:
        with Swarm(ADDRESS, port, 1, BEHAVIOURS[kind](packets("some"), 1)) as attack:
            attack.run(1.5)
        assert attack.connected >= 2
        assert attack.answers >= 2
        assert attack.answers <= attack.connected * 2
        assert attack.sent >= attack.answers


@contextlib.contextmanager
def connected(upstream: AttackUpstream) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", upstream.port), 10) as plain,
        context.wrap_socket(plain) as tls,
    ):
        yield tls


def test_the_upstream_answers_as_each_zone_says(bench: Bench) -> None:
    (upstream,) = bench.make_upstreams([AttackUpstream])
    assert isinstance(upstream, AttackUpstream)
    with bench.running([upstream]), connected(upstream) as client:
        client.sendall(frame(make_query(fixed_name(Zone.MUTE), 1, ident=9)))
        answers = {}
        for zone in (Zone.TINY, Zone.TEXT, Zone.HUGE, Zone.NONE, Zone.SOME):
            client.sendall(frame(make_query(fixed_name(zone).upper(), 16)))
            answers[zone] = read_message(client)
        client.sendall(frame(make_query("other.lab.example", 1)))
        assert dns.message.from_wire(read_message(client)).answer[0][0].to_text() == "192.0.2.1"
        wait_until(lambda: sum(upstream.counts().values()) == 7, upstream)
        assert upstream.counts() == dict.fromkeys([zone.value for zone in Zone], 1) | {"ordinary": 1}
    assert 64_900 < len(answers[Zone.TINY]) < 65_000
    assert int.from_bytes(answers[Zone.TINY][6:8]) == 5_900
    assert len(dns.message.from_wire(answers[Zone.TEXT]).answer[0]) == 4_000
    assert len(dns.message.from_wire(answers[Zone.HUGE]).answer[0]) == 223
    assert 59_000 < len(answers[Zone.HUGE]) < 60_000
    none = dns.message.from_wire(answers[Zone.NONE])
    assert none.rcode() == 3
    assert none.authority[0][0].minimum == 300
    assert dns.message.from_wire(answers[Zone.SOME]).edns == 0


def test_an_upstream_behind_a_link_reads_no_faster(bench: Bench) -> None:
    (upstream,) = bench.make_upstreams([SlowUpstream])
    assert isinstance(upstream, SlowUpstream)
    queries = packets("large")
    with bench.running([upstream]), connected(upstream) as client:
        begun = time.monotonic()
        for number in range(250):  # 15 MB; 1 MB is read at once, and some is in buffers
            client.sendall(frame(queries(number)))
        for _ in range(250):
            assert read_message(client)[3] & 15 == 0
        assert time.monotonic() - begun > 1.2


def test_every_row_can_be_chosen() -> None:
    every = every_attack()
    assert len({each.key for each in every}) == len(every)
    assert [each.key for each in chosen(["tiny"], is_quick=False)] == ["tiny-600", "tiny-3000", "tiny-5000"]
    assert len(HOSTILE) == 12
    assert {"tiny-3000", "noread", "bigq", "owed", "silent", "random", "pipeline"} < {
        each.key for each in chosen([], is_quick=True)
    }


@pytest.mark.parametrize("kind", [AttackedUnbound, AttackedDnsdist])
def test_peers_have_all_upstreams(kind, tmp_path: Path) -> None:
    peer = kind(tmp_path / "peer", tmp_path / "ca.pem", 1111)
    peer.ports = (1111, 2222)
    text = peer.configuration()
    assert text.count("1111") == text.count("2222") == 1


def test_a_quick_row_keeps_exact_books(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_good, "PATIENCE", 1.0)
    (attack,) = chosen(["tiny-3000"], is_quick=True)
    forwarder = attacked_dotproxies([Source()], [])[0]
    measured = measure(bench, forwarder, attack, seconds=1.0, recovery=0.5)
    assert not measured.has_ended
    assert 0 < measured.sent.sent <= 3000 * 1.1
    assert 0.9 < measured.sent.end - measured.sent.begin < 12
    assert measured.peak >= measured.memory > 1e7
    assert measured.cpu > 0
    assert measured.upstream is not None
    assert measured.upstream >= 1
    books = measured.books["udp"]
    assert len(books.asked) >= 40
    assert Outcome.PENDING not in books.outcomes
    assert all(measured.sent.begin <= each.sent < measured.sent.end for each in books.asked)
    assert [len(each) for each in lines(forwarder.name, measured, 0.5)] == [len(HEAD)]


def test_the_command_prints_a_table_in_which_each_query_ended_once(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "benchmarks.attack", "--quick", "--only", "owed", "--forwarders", "dotproxy, 2"]
    line += ["--seconds", "1", "--recovery", "1", "--markdown", str(tmp_path / "page")]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page").read_text("utf-8")
    assert "### owed: " in page
    head, _, *rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines() if line[:1] == "|"
    ]
    told = [dict(zip(head[::-1], row[::-1], strict=False)) for row in rows]
    assert [row["client"] for row in told] == ["udp", "tcp", "tcp kept"]
    for row in told:
        good, sent = map(int, row["NOERROR"].split(" of "))
        assert sent >= 40
        assert good + sum(int(row[each]) for each in ("SERVFAIL", "other", "lost")) == sent
