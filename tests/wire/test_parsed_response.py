"""
Answers of many records: aged and cut without going from record to record, and with the same result.
"""

import sys
from collections.abc import Callable
from itertools import cycle, islice

import dns.flags
import dns.message
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.testing.client import make_query
from dotproxy.wire.edns import DO, ExtendedError, ede_option, opt_record, option
from dotproxy.wire.message import parse_query
from dotproxy.wire.parsed_response import MAX_TTL_OFFSETS, ParsedResponse, parse_reply
from dotproxy.wire.responses import truncate, truncate_parsed
from dotproxy.wire.rewrite import EdnsRewriter
from tests.wire import reference

#: Owner, TTL and rdata of a record: such as take two octets of owner, one, and a whole name.
RECORDS = st.tuples(
    st.sampled_from((b"\xc0\x0c", b"\0", b"\3abc\xc0\x0c", b"\7example\3org\0")),
    st.integers(0, 0x7FFFFFFF) | st.integers(0, 60),
    st.integers(0, 40) | st.just(300),
)

OPTIONS = st.sampled_from(
    (
        option(3, b"server 7"),
        option(65001, b"x" * 400),
        option(12, bytes(9)),
        ede_option(ExtendedError(3, "")),
        ede_option(ExtendedError(22, "no reachable authority at this time")),
    )
)


def reply_of(query: bytes, records: list[tuple[bytes, int, int]], counts: tuple[int, int]) -> bytes:
    """
    A reply with these records, so many in the first and in the second section.
    """
    end = parse_query(query).question_end
    head = b"\x84\xa3\0\1" + b"".join(n.to_bytes(2, "big") for n in (*counts, len(records) - sum(counts)))
    body = b"".join(
        owner + b"\xff\0\0\1" + ttl.to_bytes(4, "big") + size.to_bytes(2, "big") + b"\1" * size
        for owner, ttl, size in records
    )
    return query[:2] + head + query[12:end] + body


@st.composite
def answers(draw: Callable[..., object]) -> tuple[bytes, ParsedResponse]:
    """
    A query and an answer to it, with few records or many.
    """
    query = make_query("www.example.org.", 65280, edns=draw(st.booleans()))
    if parse_query(query).opt_at and draw(st.booleans()):
        query = query[:-4] + DO.to_bytes(2, "big") + query[-2:]
    count = draw(st.integers(0, MAX_TTL_OFFSETS + 2) | st.integers(MAX_TTL_OFFSETS, 150))
    records = list(islice(cycle(draw(st.lists(RECORDS, min_size=1, max_size=5))), count))
    first = draw(st.integers(0, count))
    reply = reply_of(query, records, (first, draw(st.integers(0, count - first))))
    answer = parse_reply(reply, parse_query(query).question_end, frozenset())
    options = b"".join(draw(st.lists(OPTIONS, max_size=4)))
    has_edns = bool(parse_query(query).opt_at)
    return query, answer._replace(options=options, extended_rcode=draw(st.sampled_from((0, 1))) if has_edns else 0)


class ManyRecordsTests(SynchronousTestCase):
    """
    Against what goes over all of them.
    """

    @given(answers(), st.integers(0, 100) | st.integers(0, 0x7FFFFFFF) | st.just(1 << 40))
    def test_each_ttl_is_reduced_by_the_age(self, case: tuple[bytes, ParsedResponse], seconds: int) -> None:
        """
        None falls below 0, and nothing else changes (RFC 1035 §3.2.1).
        """
        _, answer = case
        self.assertEqual(reference.aged(answer.body, answer.all_ttl_offsets(), seconds), answer.aged_body(seconds))

    @given(answers(), st.integers(0, 0x7FFFFFFF))
    def test_common_ttl_gives_the_same_as_single_ttls(self, case: tuple[bytes, ParsedResponse], ttl: int) -> None:
        """
        The same as each for itself.
        """
        _, answer = case
        self.assertEqual(answer.with_ttls([ttl] * len(answer.all_ttl_offsets())), answer.with_ttl(ttl))
        self.assertEqual(
            {ttl} & {ttl for _ in answer.all_ttl_offsets()}, {record.ttl for record in answer.with_ttl(ttl).records()}
        )

    @given(answers(), st.integers(512, 1500) | st.integers(512, 8000), st.integers(0, 90), st.binary(max_size=40))
    def test_truncation_and_ageing_commute(
        self, case: tuple[bytes, ParsedResponse], limit: int, age: int, cookie: bytes
    ) -> None:
        """
        Cut and then aged, an answer is the same as aged, written and then cut; dnspython reads it.
        """
        query, answer = case
        info = parse_query(query)
        if info.opt_at and cookie:
            info = info._replace(response_options=option(65002, cookie))
        cut = EdnsRewriter().build_response(query, info, answer, age, limit)
        whole = bytearray(reference.written(query, info, answer, age, limit))
        if not info.edns_flags & DO:
            whole[3] &= ~0x20  # AD is for those who know it
        self.assertEqual(bytes(whole), cut)
        self.assertLessEqual(len(cut), limit)
        message = dns.message.from_wire(cut, raise_on_truncation=False)
        whole_size = (
            info.question_end
            + len(answer.body)
            + (11 + len(answer.options + info.response_options)) * bool(info.opt_at)
        )
        self.assertEqual(whole_size > limit, bool(message.flags & dns.flags.TC))

    @given(answers(), st.integers(512, 1500), st.binary(max_size=60), st.integers(0, 3000))
    def test_unparsed_response_is_truncated_to_the_same_octets(
        self, case: tuple[bytes, ParsedResponse], limit: int, junk: bytes, at: int
    ) -> None:
        """
        A reply that was not taken apart is cut to the same, also if its records make no sense.
        """
        query, answer = case
        info = parse_query(query)
        reply = bytearray(reference.written(query, info, answer, 0, 65535))
        start = min(len(reply), info.question_end + at)
        reply[start : start + len(junk)] = junk
        self.assertEqual(
            reference.truncated(bytes(reply), query, info, limit), truncate(bytes(reply), query, info, limit)
        )

    @given(answers(), st.integers(512, 1500))
    def test_truncated_response_may_be_without_records(self, case: tuple[bytes, ParsedResponse], limit: int) -> None:
        """
        By choice a truncated answer has no records and no options of the upstream's, but its rcode: it is no longer
        than the query.
        """
        query, answer = case
        info = parse_query(query)
        for cut in (
            truncate_parsed(answer, query, info, limit, age=3, is_empty=True),
            truncate(reference.written(query, info, answer, 3, 65535), query, info, limit, is_empty=True),
        ):
            message = dns.message.from_wire(cut, raise_on_truncation=False)
            self.assertEqual(len(query), len(cut))
            self.assertTrue(message.flags & dns.flags.TC)
            self.assertEqual(answer.rcode, message.rcode())
            self.assertEqual((0, 0, 0, 0), (*map(len, message.sections[1:]), len(message.options)))

    def test_section_counts_and_rdata_lengths_have_16_bits(self) -> None:
        """
        Each record's section goes by counts of 16 bits, its rdata by a length of 16 bits.
        """
        query = make_query("www.example.org.", 65280, edns=False)
        end = parse_query(query).question_end
        for counts in ((3, 2), (300, 2), (2, 300), (260, 513)):
            records = [(b"\xc0\x0c", number, number % 7) for number in range(sum(counts) + 5)]
            answer = parse_reply(reply_of(query, records, counts), end, frozenset())
            expected = [0] * counts[0] + [1] * counts[1] + [2] * 5
            found = list(answer.records())
            self.assertEqual(expected, [section for section, *_ in found])
            self.assertEqual([record[1:] for record in records], [(ttl, to - at) for _, _, ttl, at, to in found])
            self.assertEqual({65280}, {rtype for _, rtype, *_ in found})
            self.assertEqual(5, answer.additional_count)

    def test_octets_after_the_last_record_are_dropped(self) -> None:
        """
        They are no part of the answer, be its records few or many, with an OPT behind them, before them, or none.
        """
        query = make_query("www.example.org.", 65280, edns=False)
        end = parse_query(query).question_end
        opt = opt_record(1232, options=option(3, b"server"))
        for count in (0, 1, MAX_TTL_OFFSETS, MAX_TTL_OFFSETS + 1, 40):
            plain = bytearray(reply_of(query, [(b"\xc0\x0c", 60, 3)] * count, (0, 0)))
            body = bytes(plain[end:])
            without = parse_reply(bytes(plain) + b"rest", end, frozenset())
            plain[10:12] = (count + 1).to_bytes(2, "big")
            behind = parse_reply(bytes(plain) + opt + b"rest", end, frozenset())
            before = parse_reply(bytes(plain[:end]) + opt + body + b"rest", end, frozenset())
            for answer in (without, behind, before):
                self.assertEqual((body, count), (answer.body, answer.additional_count), count)
                self.assertEqual(without.all_ttl_offsets(), answer.all_ttl_offsets())
                self.assertEqual(bool(answer.ttl_marks), count > MAX_TTL_OFFSETS)
            self.assertEqual(
                (b"", option(3, b"server"), option(3, b"server")), tuple(a.options for a in (without, behind, before))
            )

    def test_second_or_misplaced_opt_is_an_error(self) -> None:
        """
        An OPT is the only one, of the additional section, and its owner is the root (RFC 6891 §6.1.1).
        """
        query = make_query("www.example.org.", 65280, edns=False)
        end = parse_query(query).question_end
        head, opt = reply_of(query, [], (0, 0))[:end], opt_record(1232)

        def reply(body: bytes, *counts: int) -> bytes:
            return head[:6] + b"".join(count.to_bytes(2, "big") for count in counts) + head[12:] + body

        parse_reply(reply(opt, 0, 0, 1), end, frozenset())
        for wrong in (
            *(reply(opt, 1, 0, 0), reply(opt, 0, 1, 0), reply(opt + opt, 0, 0, 2)),
            *(reply(b"\1x" + opt, 0, 0, 1), reply(b"\xc0\x0c" + opt[1:], 0, 0, 1)),
            reply(b"\xbf\x0c" + b"\0\1\0\1" + bytes(6), 1, 0, 0),  # an owner with a reserved label type
        ):
            self.assertRaises(WireError, parse_reply, wrong, end, frozenset())

    def test_record_past_the_end_is_an_error(self) -> None:
        """
        Each field and each octet of rdata has to be there.
        """
        query = make_query("www.example.org.", 65280, edns=False)
        end = parse_query(query).question_end
        whole = reply_of(query, [(b"\xc0\x0c", 60, 3), (b"\3abc\0", 60, 300)], (1, 1))
        parse_reply(whole, end, frozenset())
        for cut in range(end, len(whole)):
            self.assertRaises(WireError, parse_reply, whole[:cut], end, frozenset())

    def test_extended_rcode_is_kept_over_udp_without_room_for_opt(self) -> None:
        """
        An extended rcode is told over UDP, also if the whole answer has no room for an OPT.
        """
        query = make_query("www.example.org.", 65280, edns=True)
        end = parse_query(query).question_end
        records = [(b"\xc0\x0c", 60, 0)] * 4000 + [(b"\xc0\x0c", 60, 65535 - end - 4001 * 12)]
        answer = parse_reply(reply_of(query, records, (4001, 0)), end, frozenset())._replace(extended_rcode=1)
        whole = EdnsRewriter().build_response(query, parse_query(query), answer, 1)
        self.assertEqual((65535, 0), (len(whole), dns.message.from_wire(whole, ignore_trailing=True).rcode() >> 4))
        cut = dns.message.from_wire(
            EdnsRewriter().build_response(query, parse_query(query), answer, 1, 1232), raise_on_truncation=False
        )
        self.assertEqual((1, 0), (cut.rcode() >> 4, cut.edns))

    def test_work_is_proportional_to_the_octets_sent(self) -> None:
        """
        A datagram of an answer of 5,900 records costs as much as one of an answer of 590: no line is run once for
        each record.
        """
        query = make_query("www.example.org.", 65280, edns=True)
        rewriter, info = EdnsRewriter(), parse_query(query)
        lines: list[int] = []
        for count in (590, 5900):
            answer = parse_reply(
                reply_of(query, [(b"\0", 60, 0)] * count, (count, 0)), parse_query(query).question_end, frozenset()
            )
            run = 0

            def trace(frame: object, event: str, argument: object) -> object:
                nonlocal run
                run += 1
                return trace

            before = sys.gettrace()
            sys.settrace(trace)
            try:
                octets = rewriter.build_response(query, info, answer, 5, 1232)
                answer.aged_body(7)
                answer.with_ttl(30)
            finally:
                sys.settrace(before)
            self.assertLessEqual(1220, len(octets))
            lines.append(run)
        self.assertEqual(lines[0], lines[1])
        self.assertLess(lines[0], 150)
