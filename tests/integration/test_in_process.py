"""
The proxy and the library in the tests' own process, on the real reactor.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import dns.edns
import dns.message
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP6ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.names import dns as names
from twisted.names.client import Resolver
from twisted.names.error import DomainError

from dotproxy import DoTResolver
from dotproxy.cli import demo
from dotproxy.config.load import load
from dotproxy.service.assembly import build
from dotproxy.telemetry.events import Events
from dotproxy.testing.client import ask_tcp, ask_udp, make_query
from dotproxy.testing.server import DotServer
from dotproxy.testing.zone import Zone, address_rdata, txt_rdata
from dotproxy.wire.rrtypes import TXT, A

ZONE = Zone({("www.test.", A): [address_rdata("192.0.2.1")], ("big.test.", TXT): [txt_rdata("x" * 60000)]})


class Heard(Events):
    """
    Which connections came and went.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []

    def upstream_connected(self, upstream, peer, tls, verified, *, resumed, seconds):
        self.events.append(("connected", resumed))

    def upstream_went_down(self, upstream, error):
        self.events.append(("down", str(error)))


@pytest.fixture
def server(authority):
    """
    A DoT server that can be told what to do.
    """
    server = DotServer(ZONE, authority.issue(["dot.test"]))
    listening = reactor.listenTCP(0, server.over_tls(reactor), interface="127.0.0.1")
    server.spec = f"tls://127.0.0.1:{listening.getHost().port}#dot.test"
    yield server
    server.abort_connections()
    pytest_twisted.blockon(listening.stopListening())


@pytest.fixture
def heard():
    """
    What was told of connections.
    """
    return Heard()


@pytest.fixture
def running(request, server, ca_file, heard):
    """
    A proxy, running; where it listens.
    """
    options = {
        "listen": ["127.0.0.1:0", "[::1]:0"],
        "forward_special": ["test"],
        "upstream": [server.spec],
        "ca_file": [str(ca_file)],
        "cache_size": ["0"],
        **getattr(request, "param", {}),
    }
    proxy = build(load(options, {}).config, reactor, heard)
    proxy.startService()
    yield proxy
    if proxy.running:
        pytest_twisted.blockon(proxy.stopService())


@pytest_twisted.ensureDeferred
async def test_queries_are_answered_over_both_transports(running):
    """
    Questions over UDP and TCP are answered, an answer of 60,000 octets over TCP.
    """
    host, port = running.addresses[0]
    for ask in (ask_udp, ask_tcp):
        reply = dns.message.from_wire(await ask(reactor, host, port, make_query("www.test.", A)))
        assert reply.answer[0].to_text().endswith("192.0.2.1")
    whole = await ask_tcp(reactor, host, port, make_query("big.test.", TXT))
    assert len(whole) > 60000


@pytest.mark.parametrize("running", [{}, {"transparent": ["yes"]}], ids=["default", "transparent"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_queries_are_padded_and_responses_are_not(running, server):
    """
    The length of a question with an OPT does not tell its name, whether or not the client padded it (RFC 8467 §4.1), and
    the upstream's padding does not come back (RFC 7830 §6).  A transparent proxy leaves a question without OPT as it is:
    with an OPT another answer would come.
    """
    host, port = running.addresses[0]
    is_transparent = running.config.transparent

    def padded(query: bytes) -> bytes:
        answer = dns.message.from_wire(ZONE(query))
        answer.use_edns(0, options=[dns.edns.GenericOption(12, bytes(200))])
        return answer.to_wire()

    for name in ("www.test.", f"{'w' * 60}.{'w' * 50}.test."):
        for options in ([], [dns.edns.GenericOption(12, bytes(5))]):
            query = dns.message.make_query(name, "A", use_edns=0, options=options).to_wire()
            server.answer = padded
            for ask in (ask_udp, ask_tcp):
                reply = dns.message.from_wire(await ask(reactor, host, port, query))
                assert (reply.edns, reply.options) == (0, ())
                sent = server.queries.pop()
                assert len(sent) == (128 if name == "www.test." else 256)
                assert dns.message.from_wire(sent).options[-1].otype == 12
        server.answer = ZONE
        bare = dns.message.make_query(name, "A").to_wire()
        assert await ask_udp(reactor, host, port, bare)
        sent = server.queries.pop()
        assert sent[2:] == bare[2:] if is_transparent else len(sent) % 128 == 0


@pytest_twisted.ensureDeferred
async def test_idle_connection_closed_by_the_server_is_no_failure(running, server, heard):
    """
    Each question is answered, each time over a new connection whose handshake is a resumed one, and nothing goes
    down.
    """
    host, port = running.addresses[0]
    for _ in range(3):
        assert await ask_udp(reactor, host, port, make_query("www.test.", A))
        server.close_connections()
        await deferLater(reactor, 0.05)
    assert heard.events == [("connected", False), ("connected", True), ("connected", True)]


@pytest_twisted.ensureDeferred
async def test_queries_on_cut_connections_are_retried(running, server):
    """
    A question whose connection is cut is asked again, and answered.
    """
    host, port = running.addresses[0]
    cuts = iter([True, False, True, False])

    def answer(query: bytes) -> bytes | None:
        if next(cuts, False):
            reactor.callLater(0, server.abort_connections)
            return None
        return ZONE(query)

    assert await ask_udp(reactor, host, port, make_query("www.test.", A))
    server.answer = answer
    for _ in range(2):
        reply = await ask_udp(reactor, host, port, make_query("www.test.", A))
        assert reply[3] & 15 == 0


@pytest_twisted.ensureDeferred
async def test_certificate_expired_between_connections_is_refused(running, server, heard):
    """
    A resumed handshake with a certificate that has expired since is refused, and no question is sent.
    """
    host, port = running.addresses[0]
    assert await ask_udp(reactor, host, port, make_query("www.test.", A))
    server.close_connections()
    await deferLater(reactor, 0.05)
    for upstream in running.forwarder.dispatcher.upstream_table.active_upstreams:
        for endpoint in upstream._endpoint._endpoints:
            endpoint._verifier._now = lambda: datetime.now(UTC) + timedelta(days=60)
    asked = len(server.queries)
    reply = await ask_udp(reactor, host, port, make_query("www.test.", A))
    assert reply[3] & 15 == 2
    assert len(server.queries) == asked
    assert heard.events[-1][0] == "down"
    assert "the certificate expired on" in heard.events[-1][1]


@pytest_twisted.ensureDeferred
async def test_queries_in_flight_are_answered_at_stop(running, server):
    """
    A question outstanding when the proxy stops gets its answer, if that comes in time, or SERVFAIL.
    """
    host, port = running.addresses[0]
    server.answer = lambda query: None
    dispatcher = Deferred.fromCoroutine(ask_udp(reactor, host, port, make_query("www.test.", A)))
    await deferLater(reactor, 0.1)
    stopping = running.stopService()
    server.connections[0].send(ZONE(server.queries[-1]))
    assert (await dispatcher)[3] & 15 == 0
    await stopping


@pytest_twisted.ensureDeferred
async def test_ipv6_listener_answers(running):
    """
    It listens on IPv6 as on IPv4.
    """
    host, port = running.addresses[1]
    connected = await connectProtocol(TCP6ClientEndpoint(reactor, host, port), Protocol())
    connected.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_twisted_names_client_is_answered(running):
    """
    twisted.names' own client is answered.
    """
    host, port = running.addresses[0]
    client = Resolver(servers=[(host, port)], reactor=reactor)
    answers, _, _ = await client.lookupAddress("www.test")
    assert answers[0].payload.dottedQuad() == "192.0.2.1"
    answers, _, _ = await client.lookupText("big.test")
    assert sum(map(len, answers[0].payload.data)) == 60000


@pytest_twisted.ensureDeferred
async def test_library_resolves_and_closes(server, ca_file):
    """
    DoTResolver answers like any resolver, over verified TLS, and closes cleanly.
    """
    resolver = DoTResolver([server.spec], forward_special="test", reactor=reactor, ca_file=str(ca_file))
    try:
        assert await resolver.getHostByName("www.test") == "192.0.2.1"
        results = await gatherResults([resolver.lookupAddress("www.test") for _ in range(50)])
        assert len(results) == 50
        assert server.accepted == 1
        with pytest.raises(DomainError):
            await resolver.lookupAddress("nothing.test")
        server.answer = lambda query: None
        unanswered = resolver.query(names.Query(b"www.test", names.AAAA))
    finally:
        await resolver.close()
    with pytest.raises(DomainError):
        await unanswered


@pytest_twisted.ensureDeferred
async def test_demo_shows_each_promise_or_fails(monkeypatch):
    """
    The demonstration shows what it promises, and fails if any of it is not so.
    """
    said: list[str] = []
    await demo.demonstrate(reactor, said.append, once=True, port=0)
    assert "and the server received no octet of a query" in said[-1]
    monkeypatch.setattr(demo, "_GREETING", "something else")
    with pytest.raises(demo.DemoFailed, match="over TCP is wrong"):
        await demo.demonstrate(reactor, said.append, once=True)
