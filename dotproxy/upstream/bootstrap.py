"""
Upstreams that are given by name: how the name becomes addresses.

Decides when a name is looked up (before the first dial, and again when the addresses have expired), and which addresses
are used if that fails: the previous ones.  The ``lookup`` decides where queries are sent: to an upstream that is given
by address, over TLS, or to a server configured for this alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import DatagramProtocol
from twisted.names import dns
from twisted.names.error import (
    DNSFormatError,
    DNSNameError,
    DNSNotImplementedError,
    DNSQueryRefusedError,
    DNSQueryTimeoutError,
    DNSServerError,
    DomainError,
)
from zope.interface import implementer

from dotproxy.errors import Unreachable
from dotproxy.policy.client import Client
from dotproxy.telemetry.counters import PlaintextCounters
from dotproxy.upstream.happy_eyeballs import RacingEndpoint
from dotproxy.upstream.timers import cancel
from dotproxy.wire.message import question_of

#: The least and the most seconds for which addresses are used, whatever their TTL.
FRESH = (60.0, 86400.0)

#: The most addresses of a name that are used; each has a TLS context of its own, with all CAs.
MOST_ADDRESSES = 16

#: The most seconds for a lookup, which is part of a dial.
LOOKUP_TIMEOUT = 1.5

#: So many datagrams from the server's address that answer something else are guesses at the ID (RFC 5452 section 9.2).
MAX_MISMATCHES = 32

#: What twisted.names raises for each rcode that is no answer, and if there was none.
_REASONS = {
    DNSNameError: "the name does not exist (NXDOMAIN)",
    DNSServerError: "the server failed (SERVFAIL)",
    DNSQueryRefusedError: "the server refused (REFUSED)",
    DNSFormatError: "the server did not understand the query (FORMERR)",
    DNSNotImplementedError: "the server does not answer such queries (NOTIMP)",
    DomainError: "the server answered with an error",
    DNSQueryTimeoutError: f"no answer in {LOOKUP_TIMEOUT:g} s",
}

#: Addresses, and how long they count.
Found = tuple[Sequence[str], float]


@implementer(IStreamClientEndpoint)
class NamedEndpoint:
    """
    An upstream's name, as something that can be dialled.

    ``make`` returns the endpoint of one address.
    """

    def __init__(
        self,
        name: str,
        *,
        lookup: Callable[[str], Deferred[Found]],
        make: Callable[[str], IStreamClientEndpoint],
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._name = name
        self._lookup = lookup
        self._make = make
        self._clock = clock
        self._now = now
        self._addresses: tuple[str, ...] = ()
        self._fresh_until = 0.0
        self._endpoint: RacingEndpoint | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for a verified connection.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        if self._endpoint is None or self._now() >= self._fresh_until:
            try:
                found, ttl = await self._lookup(self._name)
            except CancelledError:
                raise
            except Exception as error:
                if self._endpoint is None:
                    reason = str(error) or type(error).__name__
                    raise Unreachable("resolve", f"{self._name} cannot be looked up: {reason}") from None
            else:
                self._take(tuple(found), ttl)
        assert self._endpoint is not None
        return await self._endpoint.connect(factory)

    def _take(self, addresses: tuple[str, ...], ttl: float) -> None:
        low, high = FRESH
        self._fresh_until = self._now() + min(high, max(low, ttl))
        if set(addresses) != set(self._addresses):
            self._addresses = addresses
            self._endpoint = RacingEndpoint(self._clock, [self._make(address) for address in addresses])


async def addresses_of(resolver: Any, name: str) -> Found:
    """
    Return the addresses of ``name``, IPv4 and IPv6 in turn, ``MOST_ADDRESSES`` at most, by a resolver of
    twisted.names' interface.

    :raises Unreachable: if there are none.
    """
    asked = [resolver.lookupAddress(name, [LOOKUP_TIMEOUT]), resolver.lookupIPV6Address(name, [LOOKUP_TIMEOUT])]
    families: list[list[str]] = []
    ttls: list[float] = []
    reasons: list[str] = []
    for succeeded, result in await DeferredList(asked, consumeErrors=True):
        if not succeeded:
            reasons.append(in_words(result.value))
            continue
        records = [record for record in result[0] if record.type in (dns.A, dns.AAAA)]
        families.append([_text(record.payload) for record in records])
        ttls += [float(record.ttl) for record in records]
    found = [address for pair in _in_turn(families) for address in pair]
    if not found:
        raise Unreachable("resolve", ", ".join(dict.fromkeys(reasons)) or "it has no address")
    return found[:MOST_ADDRESSES], min(ttls)


def in_words(error: BaseException) -> str:
    """
    Return why a lookup failed.
    """
    words = next((words for kind, words in _REASONS.items() if isinstance(error, kind)), "")
    return words or str(error) or type(error).__name__


def _text(record: Any) -> str:
    return str(record.dottedQuad()) if isinstance(record, dns.Record_A) else str(IPv6Address(record.address))


def _in_turn(families: list[list[str]]) -> list[list[str]]:
    longest = max(map(len, families), default=0)
    return [[family[at] for family in families if at < len(family)] for at in range(longest)]


class PlainAsker:
    """
    Takes the questions of a resolver to one server, in the clear, each from a socket of its own, and counts them.
    """

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        random_octets: Callable[[int], bytes],
        counters: PlaintextCounters,
    ) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._random_octets = random_octets
        self._counters = counters

    def handle_batch(self, listener: Any, batch: Any) -> int:
        """
        Ask; the listener hears of what is answered.
        """
        for octets, client in batch:
            query = self._random_octets(2) + octets[2:]
            self._counters.bootstrap += 1
            question = _PlainQuestion(self._reactor, (self._host, self._port), query, listener, client)
            # Port 0: the kernel chooses a random one for each question (RFC 5452 section 9.2).
            self._reactor.listenUDP(0, question, interface="::" if ":" in self._host else "")
        return 0


class _PlainQuestion(DatagramProtocol):
    """
    One question and its connected socket: datagrams from elsewhere never arrive.

    Ends with the response, after ``PATIENCE``, or after ``MAX_MISMATCHES`` datagrams that do not match; a port may
    deliver what it has read already after that, which is ignored.
    """

    noisy = False
    transport: Any

    def __init__(self, reactor: Any, server: tuple[str, int], query: bytes, listener: Any, client: Client) -> None:
        self._reactor = reactor
        self._server = server
        self._query = query
        self._listener = listener
        self._client = client
        self._timer: Any = None
        self._mismatches = 0
        self._is_over = False

    def startProtocol(self) -> None:
        """
        Ask.

        :raises OSError: if there is no route to the server.
        """
        try:
            self.transport.connect(*self._server)
            self.transport.write(self._query)
        except OSError:
            self._end()
            raise
        self._timer = self._reactor.callLater(LOOKUP_TIMEOUT, self._end)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """
        Take the response, if it is one.
        """
        if self._is_over:
            return
        if addr[:2] == self._server and self._is_response(datagram):
            self._end()
            self._listener.send_answers([(datagram, self._client)])
            return
        self._mismatches += 1
        if self._mismatches >= MAX_MISMATCHES:
            self._end()

    def _is_response(self, datagram: bytes) -> bool:
        """
        Whether a datagram has our ID, QR set, and our question, in any case.
        """
        end = question_of(self._query)
        has_id = datagram[:2] == self._query[:2] and datagram[2:3] >= b"\x80"
        return has_id and question_of(datagram) == end and datagram[12:end].lower() == self._query[12:end].lower()

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        cancel(self._timer)
        self.transport.stopListening()
