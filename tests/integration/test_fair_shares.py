"""
One client that takes all it can get, and another one beside it.
"""

import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from dotproxy.testing.client import make_query
from tests.integration.namespaces import Namespace, joined
from tests.integration.programs import Proxy, free_port, wait_until
from tests.integration.servers import Unbound

A, ANY = 1, 255
LOUD, QUIET = "127.0.0.66", "127.0.0.77"
PUBLIC, PRIVATE = "198.51.100.7", "10.1.1.7"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """
    A UDP port of which nobody reads.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread:
        unread.bind(("127.0.0.1", 0))
        yield unread.getsockname()[1]


def shed(port: int) -> dict[str, float]:
    """
    What was shed, by cause, as a scraper sees it.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    return {
        cause: float(count)
        for cause, count in re.findall(r'shed_queries_total{cause="(\w+)"} (\S+)', text)
        if float(count)
    }


def replies(client: socket.socket, count: int) -> list[dns.message.Message]:
    """
    So many responses.
    """
    return [dns.message.from_wire(client.recv(65535), raise_on_truncation=False) for _ in range(count)]


def test_unanswered_queries_take_half_of_the_places(
    serve: Callable[..., Unbound], proxy: Callable[..., Proxy], silent_port: int
) -> None:
    """
    A client that asks for names that are never answered gets half of the places in flight, and TC=1 for the rest; over
    TCP it gets SERVFAIL. Another client is answered all the while.
    """
    admin = free_port()
    options = ("--max-outstanding", "100", "--admin-listen", f"127.0.0.1:{admin}")
    started = proxy(serve(Unbound, silent_port=silent_port).upstream, options=options)
    for client in (LOUD, QUIET):  # whose addresses are known not to be forged
        started.ask(make_query("www.lab.example.", A), tcp=True, source=client)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loud:
        loud.bind((LOUD, 0))
        loud.connect((started.host, started.port))
        loud.settimeout(10)
        for number in range(200):
            loud.send(make_query(f"n{number}.silent.example.", A, ident=number))
        assert {(reply.rcode(), bool(reply.flags & dns.flags.TC)) for reply in replies(loud, 150)} == {(0, True)}
        for number in range(20):
            answer = dns.message.from_wire(started.ask(make_query(f"n{number}.wild.lab.example.", A), source=QUIET))
            assert (answer.rcode(), len(answer.answer)) == (dns.rcode.NOERROR, 1)
        assert shed(admin) == {"in_flight": 150}
        refused = dns.message.from_wire(started.ask(make_query("more.silent.example.", A), tcp=True, source=LOUD))
        assert refused.rcode() == dns.rcode.SERVFAIL


def test_query_from_the_echo_port_is_ignored(serve: Callable[..., Unbound], proxy: Callable[..., Proxy]) -> None:
    """
    A query that seems to come from echo gets no response, the next one does.
    """
    admin = free_port()
    started = proxy(serve(Unbound).upstream, options=("--admin-listen", f"127.0.0.1:{admin}"))
    query = make_query("www.lab.example.", A)
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for client, port in zip(sockets, (7, 0), strict=True):
            client.bind((LOUD, port))
            client.connect((started.host, started.port))
            client.settimeout(10)
            client.send(query)
        assert len(sockets[1].recv(65535)) > len(query)
        wait_until(lambda: shed(admin) == {"source_port": 1}, started)
        sockets[0].setblocking(False)
        with pytest.raises(BlockingIOError):
            sockets[0].recv(65535)


def test_any_is_one_record_over_udp(serve: Callable[..., Unbound], proxy: Callable[..., Proxy]) -> None:
    """
    A query of type ANY gets one small record over UDP, and all there are over TCP.
    """
    started = proxy(serve(Unbound).upstream)
    query = make_query("www.lab.example.", ANY)
    assert len(started.ask(query)) < len(query) + 40
    assert len(dns.message.from_wire(started.ask(query, tcp=True)).answer) > 1


class Inside(Proxy):
    """
    dotproxy in a namespace, where it has no upstream and needs none.
    """

    near: Namespace

    def command(self) -> list[str]:
        """
        Inside.
        """
        return self.near.inside(super().command())

    def is_ready(self) -> bool:
        """
        It listens.
        """
        return "listening on" in self.said()


@pytest.fixture
def world(ca_file: Path, tmp_path: Path) -> Iterator[Inside]:
    """
    dotproxy that serves any address, and three alike responses a second to those that are public.
    """
    near, far = joined()
    options = ("--allow-from", "0.0.0.0/0", "--response-rate-limit", "3", "--response-rate-slip", "1")
    program = Inside(tmp_path / "proxy.log", ca_file, ("127.0.0.1@1#dot.test",), options)
    program.near = near
    try:
        for address in (PUBLIC, PRIVATE):
            near.ip("address", "add", f"{address}/32", "dev", "lo")
        program.start()
        yield program
    finally:
        program.stop()
        near.remove()
        far.remove()


def test_identical_responses_are_limited_by_rate(world: Inside) -> None:
    """
    A public address gets three alike responses a second, and the others truncated; a private one gets all of them whole.
    """
    whole = {}
    for address in (PUBLIC, PRIVATE):
        with world.near.socket(socket.SOCK_DGRAM) as client:
            client.bind((address, 0))
            client.connect((world.host, world.port))
            client.settimeout(10)
            for _ in range(60):
                client.send(make_query("localhost.", A))
            whole[address] = sum(not reply.flags & dns.flags.TC for reply in replies(client, 60))
    assert whole[PRIVATE] == 60
    assert whole[PUBLIC] % 3 == 0
    assert whole[PUBLIC] < 30
