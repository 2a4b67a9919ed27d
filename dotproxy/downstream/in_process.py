"""
The in-process listener: twisted.names' ``IResolver`` over a forwarder.

Decides how a ``dns.Query`` becomes a query in wire form and how a response becomes records.  A response is checked
before twisted.names decodes it, which does not limit names: a message of compression pointers could take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address
from struct import Struct
from typing import NamedTuple, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.names import dns
from twisted.names.common import ResolverBase
from twisted.names.error import DNSQueryTimeoutError, DNSServerError, DomainError
from twisted.python.failure import Failure

from dotproxy.downstream.interfaces import QueryReceiver
from dotproxy.errors import WireError
from dotproxy.policy.client import NO_PORT, Client, ClientMessage
from dotproxy.telemetry.counters import IN_PROCESS
from dotproxy.wire.edns import opt_record
from dotproxy.wire.message import HEADER, RD, QueryInfo, question_of
from dotproxy.wire.names import MAX_LABEL, MAX_NAME, read_name
from dotproxy.wire.records import Record, walk
from dotproxy.wire.responses import OUR_UDP_SIZE

Records = tuple[list[dns.RRHeader], list[dns.RRHeader], list[dns.RRHeader]]

_TYPE_CLASS = Struct("!HH")


class _RdataNames(NamedTuple):
    """
    Where names are in rdata: octets before the first one, and the number of names.
    """

    offset: int
    number: int


#: Types whose rdata twisted.names decodes and which have names in it.
_NAMES_IN_RDATA = {
    dns.NS: _RdataNames(0, 1),
    dns.MD: _RdataNames(0, 1),
    dns.MF: _RdataNames(0, 1),
    dns.CNAME: _RdataNames(0, 1),
    dns.MB: _RdataNames(0, 1),
    dns.MG: _RdataNames(0, 1),
    dns.MR: _RdataNames(0, 1),
    dns.PTR: _RdataNames(0, 1),
    dns.DNAME: _RdataNames(0, 1),
    dns.TSIG: _RdataNames(0, 1),
    dns.SOA: _RdataNames(0, 2),
    dns.MINFO: _RdataNames(0, 2),
    dns.RP: _RdataNames(0, 2),
    dns.MX: _RdataNames(2, 1),
    dns.AFSDB: _RdataNames(2, 1),
    dns.SRV: _RdataNames(6, 1),
}


class ForwarderResolver(ResolverBase):
    """
    A resolver that sends its queries to a forwarder in this process.
    """

    kind = IN_PROCESS
    is_stream = True
    takes_transfers = False

    def __init__(self, receiver: QueryReceiver, clock: IReactorTime) -> None:
        super().__init__()
        self._receiver = receiver
        self._clock = clock

    def query(self, query: dns.Query, timeout: Sequence[float] | None = None) -> Deferred[Records]:
        """
        Return a Deferred for the answers, authority and additional records that answer ``query``.

        It fails with a ``DomainError`` for any rcode but NOERROR, and with ``DNSQueryTimeoutError`` after the sum of
        ``timeout``, in seconds.  The forwarder's own deadline holds in any case.
        """
        # The base class ignores the query's class and uses IN.
        return self._lookup(query.name.name, query.cls, query.type, timeout)

    def getHostByName(self, name: str, timeout: Sequence[float] | None = None, effort: int = 10) -> Deferred[str]:
        """
        Return a Deferred for an address of ``name``, IPv4 if it has one.
        """
        # The base class queries for ANY, which servers need not answer in full (RFC 8482).
        return Deferred.fromCoroutine(self._host_by_name(name, timeout))

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Return b"": this listener has no EDNS options.
        """
        return b""

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Decode responses and fire the Deferreds of their queries.
        """
        for octets, client in answers:
            waiting = cast(Deferred[Records], client.route)
            if waiting.called:
                continue
            try:
                message = _decode(octets)
                if message.rCode:
                    raise self.exceptionForCode(message.rCode)(message)
            except (WireError, DomainError, ValueError, EOFError) as error:
                waiting.errback(Failure(error))
            else:
                waiting.callback((message.answers, message.authority, message.additional))

    def _lookup(self, name: bytes, cls: int, type: int, timeout: Sequence[float] | None) -> Deferred[Records]:
        try:
            question = _encode_name(name) + _TYPE_CLASS.pack(type, cls)
        except WireError:
            return fail(Failure())
        octets = HEADER.pack(0, RD, 1, 0, 0, 1) + question + opt_record(OUR_UDP_SIZE)
        waiting: Deferred[Records] = Deferred()
        if timeout:
            waiting.addTimeout(sum(timeout), self._clock, _timed_out)
        if self._receiver.handle_batch(self, [(octets, Client("", NO_PORT, waiting))]) and not waiting.called:
            waiting.errback(Failure(DNSServerError()))  # it gets no response
        return waiting

    async def _host_by_name(self, name: str, timeout: Sequence[float] | None) -> str:
        query_name = dns.domainString(name)
        answers, _, _ = await self._lookup(query_name, dns.IN, dns.A, timeout)
        for answer in answers:
            if answer.type == dns.A:
                return str(cast(dns.Record_A, answer.payload).dottedQuad())
        answers, _, _ = await self._lookup(query_name, dns.IN, dns.AAAA, timeout)
        for answer in answers:
            if answer.type == dns.AAAA:
                return str(IPv6Address(cast(dns.Record_AAAA, answer.payload).address))
        raise DomainError(f"{name} has no address")


def _timed_out(_: object, seconds: float) -> None:
    raise DNSQueryTimeoutError(f"no answer in {seconds:g} s")


def _encode_name(name: bytes) -> bytes:
    labels = name.rstrip(b".").split(b".") if name.rstrip(b".") else []
    if any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise WireError(f"not a domain name: {name[:80]!r}")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(encoded) > MAX_NAME:
        raise WireError(f"not a domain name: {name[:80]!r}")
    return encoded


def _decode(octets: bytes) -> dns.Message:
    end = question_of(octets)
    if not end:
        raise WireError("a response without its question")
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(octets)
    for record in walk(octets, end, answers + authorities + additionals):
        read_name(octets, record.start)
        for at in _name_offsets(octets, record):
            read_name(octets, at)
    message = dns.Message()
    message.fromStr(octets)
    return message


def _name_offsets(octets: bytes, record: Record) -> Iterable[int]:
    """
    Yield the offsets at which twisted.names will read a name in a record's rdata.
    """
    offset = record.rdata_at
    if record.type == dns.A6:
        raise WireError("an A6 record, of a type long withdrawn")
    if record.type == dns.NAPTR:
        offset += 4
        for _ in range(3):
            offset += 1 + (octets[offset] if offset < len(octets) else 0)
        yield offset
        return
    names = _NAMES_IN_RDATA.get(record.type, _RdataNames(0, 0))
    offset += names.offset
    for _ in range(names.number):
        yield offset
        _, offset = read_name(octets, offset)
