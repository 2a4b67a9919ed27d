"""
EDNS is hop by hop (RFC 6891 §6.1.1): the OPT of forwarded queries, and the OPT of responses to clients.

Decides which options are forwarded: never COOKIE, tcp-keepalive and padding (RFC 7873 §5, RFC 7828 §3, RFC 7830 §3);
client subnet as the operator says (RFC 7871); all others in both directions.  Queries are padded (RFC 8467 §4.1),
whether or not the client sends EDNS, and ask the upstream for its idle timeout (RFC 7828 §3.2.1); a client without EDNS
gets none of it.  AD is sent to clients that understand it (RFC 6840 §5.8).  A signed message is forwarded unchanged but
for its ID (RFC 8945 §5.5).
"""

from __future__ import annotations

from enum import StrEnum
from struct import Struct

from dotproxy.errors import TruncatedReply, WireError
from dotproxy.wire.edns import COOKIE, DO, ECS, KEEPALIVE, OPT_SIZE, PADDING, opt_record, option
from dotproxy.wire.message import (
    AD,
    CD,
    HEADER_SIZE,
    MAX_MESSAGE,
    RD,
    SERVFAIL,
    TC,
    QueryInfo,
    parse_query,
    records_of,
)
from dotproxy.wire.parsed_response import ParsedResponse, options_without, parse_error_without_question, parse_reply
from dotproxy.wire.responses import OUR_UDP_SIZE, refusal, restore_question, truncate, truncate_parsed

#: Octets of a client's EDNS options that are forwarded at most; those in use are far shorter.
MAX_FORWARDED_OPTIONS = 512

_BETWEEN_NEIGHBOURS = frozenset((COOKIE, KEEPALIVE, PADDING))

_COUNT = Struct("!H")
_TC = TC >> 8

#: The fourth octet of a header, with AD.
_WITH_AD = [bytes((octet | AD,)) for octet in range(256)]

#: The third octet of a header, without TC, which means something in responses alone (RFC 1035 §4.1.1).
_WITHOUT_TC = [bytes((octet & ~_TC,)) for octet in range(256)]

_PADDING_ALONE = frozenset((PADDING,))
_PADDING_CODE = PADDING.to_bytes(2, "big")

_PLAIN_OPT = {do: opt_record(OUR_UDP_SIZE, 0, do) for do in (0, DO)}

#: SOURCE PREFIX-LENGTH 0: no server may learn the client's network (RFC 7871 §7.1.2).
_PRIVATE = option(ECS, b"\0\1\0\0")


class ClientSubnet(StrEnum):
    """
    The EDNS client subnet option of queries to upstreams (RFC 7871): sent as 0/0, not sent, or the client's own.
    """

    PRIVATE = "private"
    OFF = "off"
    PASS = "pass"  # noqa: S105 (no password)


class PassthroughRewriter:
    """
    Forward messages unchanged, options included, but for padding, which is hop by hop, and TC of queries
    (``transparent``).

    ``block``: queries with an OPT are padded to a multiple of this, in octets; 0 leaves the client's padding.
    ``truncates_all``: responses too long for a datagram have no records at all.
    """

    #: A response is for one client only.
    is_shared = False

    def __init__(self, block: int = 0, *, truncates_all: bool = False) -> None:
        self._block = block
        self._truncates_all = truncates_all

    def forwarded_options(self, query: bytes, info: QueryInfo) -> bytes:
        """
        Return b"": options stay in the query.
        """
        return b""

    def rewrite_query(self, query: bytes, info: QueryInfo, *, for_others: bool = False) -> bytes:
        """
        Return ``query`` without TC, and padded if it has an OPT; of what is signed, all as it is.
        """
        if info.is_signed:
            return query
        if query[2] & _TC:
            query = query[:2] + _WITHOUT_TC[query[2]] + query[3:]
        return _padded(query, info, self._block) if self._block and info.opt_at else query

    def parse_response(self, query: bytes, info: QueryInfo, reply: bytes) -> bytes:
        """
        Return ``reply`` without padding, if ``query`` could be padded.
        """
        return reply if info.is_signed or not info.opt_at else _unpadded(reply, info)

    def build_response(
        self, query: bytes, info: QueryInfo, answer: ParsedResponse | bytes, age: int = 0, limit: int = MAX_MESSAGE
    ) -> bytes:
        """
        Return ``answer`` with the query's ID, truncated if it is longer than ``limit`` octets.
        """
        assert isinstance(answer, bytes)  # as parse_response returned it
        reply = restore_question(query, info, answer)
        return reply if len(reply) <= limit else truncate(reply, query, info, limit, is_empty=self._truncates_all)

    def rewrite_transfer_message(self, query: bytes, info: QueryInfo, reply: bytes) -> bytes:
        """
        Return one message of a transfer with the query's ID.

        :raises WireError: never.
        """
        return query[:2] + self.parse_response(query, info, reply)[2:]


class EdnsRewriter:
    """
    Write an OPT of dotproxy's own on each hop.

    ``block``: queries are padded to a multiple of this, in octets; 0 for no padding.  ``truncates_all``: responses too
    long for a datagram have no records at all.
    """

    is_shared = True

    def __init__(
        self, block: int = 128, subnet: ClientSubnet = ClientSubnet.PRIVATE, *, truncates_all: bool = False
    ) -> None:
        self._block = block
        self._truncates_all = truncates_all
        self._subnet = subnet
        self._dropped = _BETWEEN_NEIGHBOURS | (frozenset() if subnet is ClientSubnet.PASS else {ECS})
        self._added = option(KEEPALIVE, b"") + (_PRIVATE if subnet is ClientSubnet.PRIVATE else b"")
        # The OPT of a query without forwarded options: by DO, and by the length of what is before it.
        self._tails = {do: [self._tail(do, self._added, length) for length in range(block or 1)] for do in (0, DO)}

    def forwarded_options(self, query: bytes, info: QueryInfo) -> bytes:
        """
        Return the options of a query that upstreams get, in wire form; none above ``MAX_FORWARDED_OPTIONS`` octets.

        :raises WireError: if an option in it is malformed (RFC 6891 §7: FORMERR).
        """
        if info.is_signed:
            return b""
        passed = options_without(query, info.opt_at, info.opt_end, self._dropped)
        return passed if len(passed) <= MAX_FORWARDED_OPTIONS else b""

    def rewrite_query(self, query: bytes, info: QueryInfo, *, for_others: bool = False) -> bytes:
        """
        Return ``query`` with our OPT instead of its own, and in it the options of ``info.forwarded_options``.

        If the response is ``for_others`` too, AD is set, as one of them may understand it (RFC 6840 §5.7).
        """
        if info.is_signed:
            return query
        do = info.edns_flags & DO
        head = query[HEADER_SIZE : info.question_end]
        additionals = query[10] << 8 | query[11]
        if additionals - bool(info.opt_at) or query[6:10] != b"\0\0\0\0":
            # What stands after the last record would be read as one, with our OPT behind it.
            end = records_of(query, info.question_end).end
            head = query[HEADER_SIZE : info.opt_at or end] + (query[info.opt_end : end] if info.opt_at else b"")
        additionals += not info.opt_at
        flags = _WITHOUT_TC[query[2]] + (_WITH_AD[query[3]] if for_others else query[3:4])
        message = query[:2] + flags + query[4:10] + _COUNT.pack(additionals) + head
        if info.forwarded_options:
            message += self._tail(do, info.forwarded_options + self._added, len(message))
        else:
            tails = self._tails[do]
            message += tails[len(message) % len(tails)]
        return message if len(message) <= MAX_MESSAGE else query  # there is no room to hide its length in

    def parse_response(self, query: bytes, info: QueryInfo, reply: bytes) -> ParsedResponse | bytes:
        """
        Return ``reply`` as ``build_response`` takes it, for each client with the same question; a signed one is whole.

        :raises TruncatedReply: if it was truncated.
        :raises WireError: if its records cannot be walked, or its OPT is not well formed.
        """
        if info.is_signed:
            return reply
        if not reply[5]:
            flags = bytes((reply[2] | query[2] & RD >> 8, reply[3] | query[3] & CD))
            return parse_error_without_question(reply, flags, info.question_end, self._dropped)
        if reply[2] & _TC:
            raise TruncatedReply
        return parse_reply(reply, info.question_end, self._dropped)

    def build_response(
        self, query: bytes, info: QueryInfo, answer: ParsedResponse | bytes, age: int = 0, limit: int = MAX_MESSAGE
    ) -> bytes:
        """
        Return the answer to ``query``, so many seconds later: with an OPT if and only if the query has one, truncated
        if it is longer than ``limit`` octets.
        """
        if isinstance(answer, bytes):
            reply = restore_question(query, info, answer)
            return reply if len(reply) <= limit else truncate(reply, query, info, limit, is_empty=self._truncates_all)
        head, body, end = answer.head, answer.body, answer.question_end
        opt = b""
        if info.opt_at:
            options, extended_rcode = answer.options + info.response_options, answer.extended_rcode
            if options or extended_rcode:
                opt = opt_record(OUR_UDP_SIZE, extended_rcode << 4, info.edns_flags & DO, options)
            else:
                opt = _PLAIN_OPT[info.edns_flags & DO]
        elif answer.extended_rcode:
            return refusal(query, SERVFAIL, info)  # an rcode that cannot be told without EDNS
        if head[1] & AD and not (query[3] & AD or info.edns_flags & DO):
            head = bytes((head[0], head[1] & ~AD)) + head[2:]
        if end + len(body) + len(opt) > limit:
            if limit < MAX_MESSAGE:
                answer = answer._replace(head=head)
                return truncate_parsed(answer, query, info, limit, age=age, is_empty=self._truncates_all)
            opt = b""  # the longest responses have no room for it
        if age:
            body = answer.aged_body(age)
        additionals = answer.additional_count + 1 if opt else answer.additional_count
        return query[:2] + head + _COUNT.pack(additionals) + query[HEADER_SIZE:end] + body + opt

    def rewrite_transfer_message(self, query: bytes, info: QueryInfo, reply: bytes) -> bytes:
        """
        Return one message of a transfer; of those after the first the question may be missing (RFC 5936 §2.2.1).

        :raises WireError: as ``parse_response``.
        """
        if info.is_signed:
            return query[:2] + reply[2:]
        end = info.question_end if reply[5] else HEADER_SIZE
        return self.build_response(query, info, parse_reply(reply, end, self._dropped))

    def _tail(self, do: int, options: bytes, length: int) -> bytes:
        if self._block:
            short = -(length + OPT_SIZE + len(options) + 4) % self._block
            options += option(PADDING, bytes(short))
        return opt_record(OUR_UDP_SIZE, 0, do, options)


def with_minimal_opt(sent: bytes) -> bytes:
    """
    Return a query as ``EdnsRewriter`` wrote it, but without OPT, so that there is none in the response, which has room
    for so much more; with DO, which needs an OPT, with one that has no options.  Return b"" if it is that already.

    Without an OPT nothing is padded, and client subnet is not spoken of: this is for what cannot be had otherwise.
    """
    info = parse_query(sent)
    do = info.edns_flags & DO
    least = _PLAIN_OPT[DO] if do else b""
    if info.opt_end - info.opt_at == len(least):
        return b""
    additionals = (sent[10] << 8 | sent[11]) - (not do)
    return sent[:10] + _COUNT.pack(additionals) + sent[HEADER_SIZE : info.opt_at] + least + sent[info.opt_end :]


def _padded(query: bytes, info: QueryInfo, block: int) -> bytes:
    """
    Return ``query`` with padding at the end of its OPT, in place of what was there; as it is if its OPT is not the
    last of it, or not well formed, or there is no room.
    """
    if info.opt_end < len(query):
        return query
    try:
        options = options_without(query, info.opt_at, info.opt_end, _PADDING_ALONE)
    except WireError:
        return query
    end = info.opt_at + OPT_SIZE
    options += option(PADDING, bytes(-(end + len(options) + 4) % block))
    padded = query[: end - 2] + _COUNT.pack(len(options)) + options
    return padded if len(padded) <= MAX_MESSAGE else query


def _unpadded(reply: bytes, info: QueryInfo) -> bytes:
    """
    Return ``reply`` without its padding; as it is if it has none, or cannot be read, or something follows its OPT.
    """
    if _PADDING_CODE not in reply:
        return reply
    end = info.question_end if reply[5] else HEADER_SIZE
    try:
        opt_at, opt_end, _, _, _ = records_of(reply, end)
        options = options_without(reply, opt_at, opt_end, _PADDING_ALONE)
    except WireError:
        return reply
    if not opt_at or opt_end < len(reply) or len(options) == opt_end - opt_at - OPT_SIZE:
        return reply
    return reply[: opt_at + OPT_SIZE - 2] + _COUNT.pack(len(options)) + options
