"""
The measurement with bad names: its books are exact, and its upstreams do what they are said to do.
"""

import errno
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import open_loop
from benchmarks.bad_upstreams import DENIED_ZONE, Refusing, Scripted, StockUnbound
from benchmarks.bench import Bench, received_by
from benchmarks.failing_name import FailingName
from benchmarks.forwarders import Source, dotproxies
from benchmarks.open_loop import Client, Load, ask
from benchmarks.scripted import BAD_ZONE, Behaviour, Ending, answer
from benchmarks.situations import Situation, bad_queries, ordinary_queries, scripted
from dotproxy.testing.client import make_query
from dotproxy.wire.framing import frame
from tests.integration.programs import read_message, which

pytestmark = pytest.mark.soak


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def fickle() -> Iterator[int]:
    """A plain DNS server: of five queries it answers one, fails one, drops one, answers one wrongly and one twice."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                query, client = server.recvfrom(4096)
                if not query:
                    return
                right = answer(query)
                number = int.from_bytes(query[:2])
                wrong = right.replace(bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)))
                replies = ([right], [answer(query, 2)], [], [wrong], [right, right])[number % 5]
                for reply in replies:
                    server.sendto(reply, client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        with socket.socket(type=socket.SOCK_DGRAM) as last:
            last.sendto(b"", server.getsockname())
        thread.join()


def test_each_query_is_sent_once_and_ends_once(fickle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "PATIENCE", 0.3)
    even, bursts = (
        Client(fickle, Load(200, 0.5, ordinary_queries)),
        Client(fickle, Load(200, 0.5, ordinary_queries, burst=50)),
    )
    ask([even, bursts])
    for tally in (even.tally, bursts.tally):
        assert tally.sent == 100
        assert tally.rcodes == {0: 40, 2: 20}
        assert (tally.wrong, tally.lost, tally.surplus) == (20, 20, 20)
        assert len(tally.times) == 80
        assert 0 < min(tally.times) <= max(tally.times) < 0.3
        assert len(tally.errors) == 20


def test_queries_leave_evenly_or_in_bursts() -> None:
    def due(load: Load) -> list[float]:
        return [at / 1e9 for at in Client(9, load).due(0)]

    assert due(Load(4, 1, ordinary_queries, phase=0.5)) == [0.125, 0.375, 0.625, 0.875]
    assert due(Load(4, 1, ordinary_queries, burst=2)) == [0.0, 0.0, 0.5, 0.5]


def connected(upstream: Scripted | StockUnbound) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", upstream.port), 10)
    return context.wrap_socket(plain, suppress_ragged_eofs=False)


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
@pytest.mark.parametrize("ending", Ending)
def test_an_upstream_hangs_up_as_it_is_told(bench: Bench, ending: Ending, tls: str) -> None:
    (upstream,) = bench.make_upstreams([scripted(ending=ending, tls=tls, delay=0.0)])
    assert isinstance(upstream, Scripted)
    with bench.running([upstream]), connected(upstream) as client:
        assert client.version() == f"TLSv{tls}"
        client.sendall(frame(ordinary_queries(7)))
        assert read_message(client)[:4] == bytes((0, 7, 0x81, 0x80))
        client.sendall(frame(bad_queries()(8)) + frame(ordinary_queries(9)))
        select.select([client], [], [], 10)
        if ending is Ending.CLOSE_NOTIFY:
            assert client.recv(100) == b""
        else:
            error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            assert error == (errno.ECONNRESET if ending is Ending.RST else 0)
            with pytest.raises(ssl.SSLEOFError):
                client.recv(100)
        received = upstream.received()
    # What came behind the bad name was received too, in the same record or not at all.
    assert {name: received.names[name] for name in ("n00007.lab.example", f"x00008.{BAD_ZONE}")} == {
        "n00007.lab.example": 1,
        f"x00008.{BAD_ZONE}": 1,
    }
    assert received.accepted is not None
    assert len(received.accepted) == 1


def test_an_upstream_answers_before_it_closes(bench: Bench) -> None:
    (upstream,) = bench.make_upstreams([scripted(Behaviour.CLOSE_EACH, delay=0.001)])
    assert isinstance(upstream, Scripted)
    with bench.running([upstream]):
        for number in range(3):
            with connected(upstream) as client:
                client.sendall(frame(ordinary_queries(number)))
                assert read_message(client)[3] & 15 == 0
                assert client.recv(100) == b""


def test_an_upstream_of_old_tls_shakes_no_hands(bench: Bench) -> None:
    (upstream,) = bench.make_upstreams([scripted(Behaviour.ANSWER, tls="1.1")])
    assert isinstance(upstream, Scripted)
    with bench.running([upstream]), pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"):
        connected(upstream)


def test_a_real_unbound_answers_and_denies(bench: Bench) -> None:
    which("unbound")
    (upstream,) = bench.make_upstreams([StockUnbound])
    assert isinstance(upstream, StockUnbound)
    with bench.running([upstream]), connected(upstream) as client:
        client.sendall(frame(ordinary_queries(1)))
        assert read_message(client)[3] & 15 == 0
        client.sendall(frame(bad_queries(DENIED_ZONE)(2)))
        with pytest.raises((ssl.SSLEOFError, EOFError, ConnectionResetError)):
            read_message(client)
        assert upstream.received().most(DENIED_ZONE) == 1


def test_every_refused_connection_is_counted(bench: Bench) -> None:
    (upstream,) = bench.make_upstreams([Refusing])
    with bench.running([upstream]):
        for _ in range(3):
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", upstream.port)) == errno.ECONNREFUSED
        if upstream.received().accepted is None:
            pytest.skip("no permission for packet sockets")
    dials = upstream.received().accepted
    assert dials is not None
    assert len(dials) == 3


def test_nothing_is_lost_where_nothing_is_bad(bench: Bench) -> None:
    everything = scripted(Behaviour.ANSWER, delay=0.01)
    situation = Situation("t", "", (everything,), Load(50, 1, ordinary_queries), Load(5, 1, bad_queries(), 0.5))
    for row in situation.measure(bench, dotproxies([Source()])):
        cells = dict(zip(situation.head, row.cells, strict=True))
        assert cells["NOERROR"] == "50 of 50"
        assert cells["bad: responses"] == "NOERROR 5"
        assert (cells["SERVFAIL"], cells["other"], cells["lost"]) == ("0", "0", "0")
        assert min(int(cells["bad: sends"]), int(cells["ordinary: sends"])) >= 1  # more if this machine is slow


def test_a_failing_name_is_asked_over_both_transports(bench: Bench) -> None:
    experiment = FailingName()
    (row,) = experiment.measure(bench, dotproxies([Source()])[:1])
    cells = dict(zip(experiment.head, row.cells, strict=True))
    assert (cells["UDP: responses"], cells["TCP: responses"]) == ("SERVFAIL 60", "SERVFAIL 60")
    assert 1 <= int(cells["UDP: sends in all"]) <= 3
    assert 1 <= int(cells["TCP: sends in all"]) <= 3


def test_two_upstreams_are_counted_as_one(bench: Bench) -> None:
    upstreams = bench.make_upstreams([scripted(), scripted()])
    with bench.running(upstreams):
        for upstream in upstreams:
            assert isinstance(upstream, Scripted)
            with connected(upstream) as client:
                client.sendall(frame(make_query("one.lab.example", 1)))
                read_message(client)
        assert received_by(upstreams).most("lab.example") == 2
