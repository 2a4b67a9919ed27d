"""
Upstreams that are given by name.
"""

from typing import Any

import dns.message
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.names import dns as names
from twisted.names.error import (
    DNSNameError,
    DNSQueryRefusedError,
    DNSQueryTimeoutError,
    DNSServerError,
    DNSUnknownError,
)
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.load import load
from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.errors import Unreachable
from dotproxy.service import upstream_builders
from dotproxy.telemetry.counters import PlaintextCounters
from dotproxy.testing.client import make_query
from dotproxy.testing.server import DotServer, MemoryNetwork
from dotproxy.testing.zone import Zone, address_rdata
from dotproxy.upstream.bootstrap import (
    FRESH,
    LOOKUP_TIMEOUT,
    MAX_MISMATCHES,
    MOST_ADDRESSES,
    NamedEndpoint,
    PlainAsker,
    addresses_of,
)
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from dotproxy.wire.rrtypes import A
from tests.upstream.scenes import GOOD, ZONE, make_verifier


class NamedTests(SynchronousTestCase):
    """
    Dialling a name.
    """

    def setUp(self) -> None:
        """
        A name that stands for two addresses.
        """
        self.network = MemoryNetwork()
        self.server = DotServer(ZONE, GOOD)
        self.asked: list[str] = []
        self.answer: Any = (["192.0.2.1", "2001:db8::1"], 300.0)
        self.endpoint = NamedEndpoint(
            "dot.test",
            lookup=self.lookup,
            make=lambda host: VerifiedEndpoint(self.network.reactor, host, 853, make_verifier(address=host), 3.0),
            clock=self.network.reactor,
            now=self.network.reactor.seconds,
        )

    def lookup(self, name: str) -> Deferred[Any]:
        """
        Called by the endpoint.
        """
        self.asked.append(name)
        return fail(self.answer) if isinstance(self.answer, Exception) else succeed(self.answer)

    def connect(self) -> Deferred[Any]:
        """
        Dial.
        """
        return self.endpoint.connect(Factory.forProtocol(Protocol))

    def test_name_is_resolved_then_dialled_and_verified(self) -> None:
        """
        Its addresses are dialled, and the certificate verified for the name.
        """
        connected = self.connect()
        self.network.accept(self.server)
        self.assertEqual("dot.test", self.successResultOf(connected).identity.verified)
        self.assertEqual([("192.0.2.1", 853)], self.network.dialled)

    def test_name_is_resolved_again_after_its_ttl(self) -> None:
        """
        Not with every dial, but when the TTL is over, a minute at least and a day at most.
        """
        for ttl, counts in ((300.0, 300.0), (1.0, FRESH[0]), (1e9, FRESH[1])):
            self.setUp()
            self.answer = (["192.0.2.1"], ttl)
            for wait, lookups in ((0.0, 1), (counts - 1, 1), (2.0, 2)):
                self.network.reactor.advance(wait)
                connected = self.connect()
                self.network.accept(self.server)
                self.successResultOf(connected)
                self.assertEqual(lookups, len(self.asked), ttl)

    def test_numbers(self) -> None:
        """
        Addresses are used for a minute to a day; 16 of them; 32 datagrams that do not match end a lookup.
        """
        self.assertEqual(((60.0, 86400.0), 16, 1.5, 32), (FRESH, MOST_ADDRESSES, LOOKUP_TIMEOUT, MAX_MISMATCHES))

    def test_failed_lookup_keeps_the_former_addresses(self) -> None:
        """
        If a later lookup fails, the former addresses are dialled.
        """
        connected = self.connect()
        self.network.refuse(Refused())
        self.network.refuse(Refused())
        self.failureResultOf(connected, Unreachable)
        self.network.reactor.advance(1000)
        self.answer = Unreachable("resolve", "timed out")
        connected = self.connect()
        self.network.accept(self.server)
        self.successResultOf(connected)
        self.assertEqual(2, len(self.asked))

    def test_failed_first_lookup_fails_the_dial(self) -> None:
        """
        Without a successful lookup there is no address to dial.
        """
        self.answer = Unreachable("resolve", "it has no address")
        error = self.failureResultOf(self.connect(), Unreachable).value
        self.assertEqual("resolve", error.phase)
        self.assertIn("dot.test cannot be looked up", error.reason)
        self.assertEqual([], self.network.dialled)

    def test_changed_addresses_are_dialled(self) -> None:
        """
        A later lookup replaces the addresses.
        """
        for address in ("192.0.2.1", "192.0.2.2"):
            self.answer = ([address], 60.0)
            connected = self.connect()
            self.network.accept(self.server)
            self.successResultOf(connected)
            self.network.reactor.advance(61)
        self.assertEqual(["192.0.2.1", "192.0.2.2"], [host for host, _ in self.network.dialled])

    def test_dial_can_be_cancelled_during_the_lookup(self) -> None:
        """
        A cancelled dial ends while the name is looked up.
        """
        self.lookup = lambda name: Deferred()  # type: ignore[method-assign]
        endpoint = NamedEndpoint(
            "x.test",
            lookup=self.lookup,
            make=lambda host: None,
            clock=Clock(),
            now=lambda: 0.0,  # type: ignore[arg-type, return-value]
        )
        connecting = endpoint.connect(Factory.forProtocol(Protocol))
        connecting.cancel()
        self.failureResultOf(connecting)


class Resolver:
    """
    A resolver with canned answers.
    """

    def __init__(self, four: Any, six: Any) -> None:
        self.four, self.six = four, six
        self.lookups: list[tuple[str, str, Any]] = []

    def lookupAddress(self, name: str, timeout: Any) -> Deferred[Any]:
        """
        IPv4.
        """
        self.lookups.append(("A", name, timeout))
        return fail(self.four) if isinstance(self.four, Exception) else succeed((self.four, [], []))

    def lookupIPV6Address(self, name: str, timeout: Any) -> Deferred[Any]:
        """
        IPv6.
        """
        self.lookups.append(("AAAA", name, timeout))
        return fail(self.six) if isinstance(self.six, Exception) else succeed((self.six, [], []))


def four(address: str, ttl: int) -> names.RRHeader:
    """
    An A record.
    """
    return names.RRHeader("dot.test", names.A, names.IN, ttl, names.Record_A(address, ttl))


def six(address: str, ttl: int) -> names.RRHeader:
    """
    An AAAA record.
    """
    return names.RRHeader("dot.test", names.AAAA, names.IN, ttl, names.Record_AAAA(address, ttl))


class AddressesTests(SynchronousTestCase):
    """
    What a lookup finds.
    """

    def found(self, resolver: Resolver) -> Deferred[Any]:
        """
        Look up.
        """
        return Deferred.fromCoroutine(addresses_of(resolver, "dot.test"))

    def test_addresses_of_both_families_alternate_until_the_least_ttl(self) -> None:
        """
        IPv4 and IPv6 in turn, for as long as the least of their TTLs; records of other types are passed over.
        """
        alias = names.RRHeader("dot.test", names.CNAME, names.IN, 5, names.Record_CNAME("x.test", 5))
        resolver = Resolver([alias, four("192.0.2.1", 60), four("192.0.2.2", 90)], [six("2001:db8::1", 70)])
        self.assertEqual((["192.0.2.1", "2001:db8::1", "192.0.2.2"], 60.0), self.successResultOf(self.found(resolver)))
        self.assertEqual([("A", "dot.test", [1.5]), ("AAAA", "dot.test", [1.5])], resolver.lookups)

    def test_number_of_addresses_is_bounded(self) -> None:
        """
        A fixed number of addresses is used, of either family: each costs a TLS context of its own.
        """
        many = [four(f"192.0.2.{number}", 60) for number in range(200)]
        others = [six(f"2001:db8::{number:x}", 60) for number in range(200)]
        found, _ = self.successResultOf(self.found(Resolver(many, others)))
        self.assertEqual(MOST_ADDRESSES, len(found))
        self.assertEqual(MOST_ADDRESSES // 2, len([address for address in found if ":" in address]))

    def test_addresses_of_one_family_are_enough(self) -> None:
        """
        The other family may fail or be empty.
        """
        resolver = Resolver(Unreachable("connect", "x"), [six("2001:db8::1", 70)])
        self.assertEqual((["2001:db8::1"], 70.0), self.successResultOf(self.found(resolver)))

    def test_missing_addresses_are_an_error_with_the_cause(self) -> None:
        """
        No address, or no response, is a failure that says which.
        """
        for resolver, reason in ((Resolver([], []), "it has no address"), (Resolver(ValueError(), []), "ValueError")):
            self.assertEqual(reason, self.failureResultOf(self.found(resolver), Unreachable).value.reason)

    def test_lookup_failure_is_told_once_in_words(self) -> None:
        """
        What a lookup failed with is told once, and in words.
        """
        nothing, failed = DNSNameError(names.Message()), DNSServerError(names.Message())
        cases = (
            (nothing, nothing, "the name does not exist (NXDOMAIN)"),
            (nothing, failed, "the name does not exist (NXDOMAIN), the server failed (SERVFAIL)"),
            (DNSQueryRefusedError(names.Message()), [], "the server refused (REFUSED)"),
            (DNSQueryTimeoutError("x"), DNSQueryTimeoutError("x"), "no answer in 1.5 s"),
            (DNSUnknownError(names.Message()), [], "the server answered with an error"),
            (Unreachable("connect", "no route"), Unreachable("connect", "no route"), "connect: no route"),
        )
        for one, other, reason in cases:
            error = self.failureResultOf(self.found(Resolver(one, other)), Unreachable).value
            self.assertEqual(reason, error.reason)

    def test_same_failure_of_several_servers_is_told_once(self) -> None:
        """
        Each distinct failure of the bootstrap servers is told once.
        """
        config = load({"upstream": ["dot.test"], "bootstrap": ["udp://192.0.2.1", "udp://192.0.2.2"]}, {}).config

        async def nowhere(resolver: Any, name: str) -> Any:
            raise Unreachable("resolve", "the name does not exist (NXDOMAIN)")

        self.patch(upstream_builders, "addresses_of", nowhere)
        reactor, counters = MemoryNetwork().reactor, PlaintextCounters()
        lookup = upstream_builders._build_lookup(config, reactor, lambda address: None, [], counters)  # type: ignore[arg-type]
        error = self.failureResultOf(lookup("dot.test"), Unreachable).value
        self.assertEqual("the name does not exist (NXDOMAIN)", error.reason)


class Port:
    """
    A UDP port that is pretended.
    """

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.sent: list[tuple[bytes, Any]] = []
        self.connected_to: tuple[str, int] | None = None
        self.is_open = True

    def connect(self, host: str, port: int) -> None:
        """
        Called by the protocol.
        """
        self.connected_to = (host, port)

    def write(self, octets: bytes) -> None:
        """
        Called by the protocol.
        """
        self.sent.append((octets, self.connected_to))

    def stopListening(self) -> None:
        """
        Called by the protocol; Twisted's port fails when it is called again.
        """
        assert self.is_open
        self.is_open = False


class Reactor(Clock):
    """
    Time, and UDP ports.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.numbers: list[int] = []

    def listenUDP(self, number: int, protocol: Any, interface: str = "") -> Port:
        """
        Called by the asker.
        """
        port = Port(protocol)
        self.numbers.append(number)
        self.ports.append(port)
        protocol.transport = port
        protocol.startProtocol()
        return port


class PlainTests(SynchronousTestCase):
    """
    Names looked up in the clear, where that was asked for.
    """

    def setUp(self) -> None:
        """
        A question, asked.
        """
        self.reactor = Reactor()
        self.counters = PlaintextCounters()
        asker = PlainAsker(self.reactor, "192.0.2.53", 53, lambda size: b"\xab\xcd\xef"[:size], self.counters)
        self.result = ForwarderResolver(asker, self.reactor).lookupAddress("dot.test", [LOOKUP_TIMEOUT])
        (self.port,) = self.reactor.ports
        ((self.query, self.server),) = self.port.sent

    def test_only_a_matching_response_of_the_server_is_accepted(self) -> None:
        """
        The query has an ID of its own; responses with another ID or question, or from elsewhere, are ignored.
        """
        self.assertEqual((("192.0.2.53", 53), b"\xab\xcd"), (self.server, self.query[:2]))
        right = Zone({("dot.test.", A): [address_rdata("192.0.2.1")]})(self.query) or b""
        other = Zone({("dat.test.", A): [address_rdata("192.0.2.9")]})(make_query("dat.test.", A, ident=0xABCD)) or b""
        for octets, address in (
            (right, ("192.0.2.9", 53)),
            (b"xx" + right[2:], self.server),
            (self.query, self.server),
            (other, self.server),
            (b"", self.server),
        ):
            self.port.protocol.datagramReceived(octets, address)
        self.assertNoResult(self.result)
        self.port.protocol.datagramReceived(right, self.server)
        answers, _, _ = self.successResultOf(self.result)
        self.assertEqual("192.0.2.1", answers[0].payload.dottedQuad())
        self.assertEqual(
            (False, []), (self.port.is_open, [call for call in self.reactor.getDelayedCalls() if call.active()])
        )

    def test_a_second_response_is_ignored(self) -> None:
        """
        What the port still reads after the question has ended goes nowhere: a doubled response.
        """
        right = Zone({("dot.test.", A): [address_rdata("192.0.2.1")]})(self.query) or b""
        for _ in range(21):
            self.port.protocol.datagramReceived(right, self.server)
        self.assertEqual(1, len(self.successResultOf(self.result)[0]))
        self.reactor.advance(LOOKUP_TIMEOUT)
        self.assertFalse(self.port.is_open)

    def test_a_late_response_is_ignored(self) -> None:
        """
        So is a response after the time a question has.
        """
        right = Zone({("dot.test.", A): [address_rdata("192.0.2.1")]})(self.query) or b""
        self.reactor.advance(LOOKUP_TIMEOUT)
        self.port.protocol.datagramReceived(right, self.server)
        self.failureResultOf(self.result)

    def test_each_query_has_a_connected_socket_at_a_random_port(self) -> None:
        """
        Each query has a socket of its own at a random port, connected, so that others' datagrams never arrive.
        """
        asker = PlainAsker(self.reactor, "192.0.2.53", 53, lambda size: b"\xab\xcd", self.counters)
        ForwarderResolver(asker, self.reactor).lookupAddress("dot.test", [LOOKUP_TIMEOUT]).addErrback(lambda _: None)
        self.assertEqual([0, 0], self.reactor.numbers)
        self.assertIsNot(self.reactor.ports[0], self.reactor.ports[1])
        self.assertEqual([("192.0.2.53", 53)] * 2, [port.connected_to for port in self.reactor.ports])

    def test_too_many_mismatched_responses_end_the_query(self) -> None:
        """
        After so many responses that do not match, somebody is guessing: the question is given up (RFC 5452 section 9.2).
        """
        right = Zone({("dot.test.", A): [address_rdata("192.0.2.1")]})(self.query) or b""
        for ident in range(MAX_MISMATCHES):
            self.assertTrue(self.port.is_open)
            self.port.protocol.datagramReceived(ident.to_bytes(2, "big") + right[2:], self.server)
        self.assertFalse(self.port.is_open)
        self.port.protocol.datagramReceived(right, self.server)
        self.assertNoResult(self.result)
        self.reactor.advance(LOOKUP_TIMEOUT)
        self.failureResultOf(self.result)

    def test_socket_error_is_raised_and_the_socket_closed(self) -> None:
        """
        The error is the caller's; no socket stays open.
        """

        def connect(port: Port, host: str, number: int) -> None:
            raise OSError(101, "Network is unreachable")

        self.patch(Port, "connect", connect)
        asker = PlainAsker(self.reactor, "192.0.2.53", 53, lambda size: b"\xab\xcd", self.counters)
        self.assertRaises(OSError, asker.handle_batch, None, [(make_query("dot.test.", A), None)])
        self.assertFalse(self.reactor.ports[1].is_open)

    def test_unanswered_query_times_out_and_closes_the_socket(self) -> None:
        """
        After the timeout the socket is closed.
        """
        self.reactor.advance(LOOKUP_TIMEOUT)
        self.failureResultOf(self.result)
        self.assertFalse(self.port.is_open)
        self.assertEqual("dot.test. IN A", dns.message.from_wire(self.query).question[0].to_text())

    def test_plaintext_is_counted(self) -> None:
        """
        Each query that left without TLS is counted, answered or not.
        """
        self.assertEqual(1, self.counters.bootstrap)
        asker = PlainAsker(self.reactor, "192.0.2.54", 53, lambda size: b"\xab\xcd", self.counters)
        second = ForwarderResolver(asker, self.reactor).lookupIPV6Address("dot.test", [LOOKUP_TIMEOUT])
        self.assertEqual(2, self.counters.bootstrap)
        self.reactor.advance(LOOKUP_TIMEOUT)
        for result in (self.result, second):
            self.failureResultOf(result)
        self.assertEqual(2, self.counters.bootstrap)
