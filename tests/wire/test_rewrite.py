"""
EDNS from hop to hop.
"""

from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import dns.tsig
from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import TruncatedReply, WireError
from dotproxy.testing.client import make_query
from dotproxy.wire.edns import opt_record, options_of
from dotproxy.wire.message import FORMERR, HEADER, QueryInfo, parse_query, records_of
from dotproxy.wire.rewrite import ClientSubnet, EdnsRewriter, PassthroughRewriter, with_minimal_opt
from tests.wire.test_message import queries

A_RECORD = dns.rrset.from_text("www.test.", 60, "IN", "A", "192.0.2.1")
COOKIE = dns.edns.GenericOption(10, b"cookie!!")
KEEPALIVE = dns.edns.GenericOption(11, b"")
PADDING = dns.edns.GenericOption(12, b"\0" * 7)
UNKNOWN = dns.edns.GenericOption(65001, b"what?")
NSID = dns.edns.GenericOption(3, b"")
SUBNET = dns.edns.ECSOption("192.0.2.0", 24)


def plain(**changes: object) -> dns.message.Message:
    """
    A query for www.test.
    """
    return dns.message.make_query("www.test.", "A", **changes)


def look(rewriter: Any, wire: bytes) -> QueryInfo:
    """
    What is seen of a query, its options that travel included.
    """
    info = parse_query(wire)
    return info._replace(forwarded_options=rewriter.forwarded_options(wire, info)) if info.opt_at else info


def back(rewriter: Any, wire: bytes, info: QueryInfo, reply: bytes) -> bytes:
    """
    A reply as the client gets it.
    """
    octets: bytes = rewriter.build_response(wire, info, rewriter.parse_response(wire, info, reply))
    return octets


def outgoing(rewriter: Any, query: dns.message.Message) -> tuple[dns.message.Message, int]:
    """
    A query as it goes out, parsed, and its size.
    """
    wire = query.to_wire()
    sent = rewriter.rewrite_query(wire, look(rewriter, wire))
    return dns.message.from_wire(sent), len(sent)


def incoming(rewriter: Any, query: dns.message.Message, reply: dns.message.Message) -> dns.message.Message:
    """
    A reply as it comes back, parsed.
    """
    wire = query.to_wire()
    octets = back(rewriter, wire, look(rewriter, wire), reply.to_wire())
    return dns.message.from_wire(octets)


def reply_to(query: dns.message.Message, *options: dns.edns.Option, edns: bool = True) -> dns.message.Message:
    """
    An upstream's reply, with its OPT.
    """
    reply = dns.message.make_response(query, recursion_available=True)
    reply.answer.append(A_RECORD)
    if edns:
        reply.use_edns(0, 0, 4096, options=options)
    else:
        reply.use_edns(-1)
    return reply


def codes(message: dns.message.Message) -> list[int]:
    """
    The options of a message.
    """
    return [int(option.otype) for option in message.options]


class OutgoingTests(SynchronousTestCase):
    """
    Questions.
    """

    @given(queries())
    def test_any_query_is_padded_and_otherwise_unchanged(self, query: dns.message.Message) -> None:
        """
        Every question is a multiple of 128 octets long, with one OPT of ours, padding last; question, flags (AD and
        CD among them, TC not) and DO are the client's (RFC 8467 §4.1, RFC 6891 §6.1.1, RFC 3225 §3, RFC 6840 §5.7,
        RFC 4035 §3.2.2).
        """
        try:
            sent, size = outgoing(EdnsRewriter(), query)
        except WireError:
            return
        self.assertEqual(0, size % 128)
        flags = query.flags & ~dns.flags.TC
        self.assertEqual((query.id, flags, query.question), (sent.id, sent.flags, sent.question))
        self.assertEqual((0, 1232), (sent.edns, sent.payload))
        do = query.ednsflags & dns.flags.DO if query.edns >= 0 else 0
        self.assertEqual(do, sent.ednsflags & 0xFFFF)
        self.assertEqual(12, codes(sent)[-1])
        theirs = [code for code in codes(query) if code not in (8, 10, 11, 12)]
        self.assertEqual([*theirs, 11, 8, 12], codes(sent))

    def test_tc_is_cleared(self) -> None:
        """
        TC means something in responses alone (RFC 1035 §4.1.1), and some servers refuse a query that has it set; no other
        flag is changed (RFC 5625 §4.1), but for AD if the answer is for others, too.
        """
        for edns in (False, True):
            wire = make_query("www.test.", 1, edns=edns)
            for flags in (0x0200, 0x0300, 0x07F0):
                odd = wire[:2] + flags.to_bytes(2, "big") + wire[4:]
                for rewriter in (EdnsRewriter(), PassthroughRewriter()):
                    told = flags & ~0x0200
                    self.assertEqual(told.to_bytes(2, "big"), rewriter.rewrite_query(odd, parse_query(odd))[2:4])
                rebuilt = EdnsRewriter().rewrite_query(odd, parse_query(odd), for_others=True)
                self.assertEqual((told | 0x20).to_bytes(2, "big"), rebuilt[2:4])
                self.assertEqual(odd[4:], PassthroughRewriter().rewrite_query(odd, parse_query(odd))[4:])

    def test_tc_of_a_signed_query_is_kept(self) -> None:
        """
        A signed message is sent unchanged, flags included (RFC 8945 §5.5).
        """
        query = plain()
        query.flags |= dns.flags.TC
        query.use_tsig(dns.tsig.Key("key.", b"secret"))
        wire = query.to_wire()
        for rewriter in (EdnsRewriter(), PassthroughRewriter()):
            self.assertEqual(wire, rewriter.rewrite_query(wire, parse_query(wire)))

    def test_query_without_edns_is_padded(self) -> None:
        """
        It gets an OPT (RFC 6891 §6.2.6 leaves that to us).
        """
        sent, size = outgoing(EdnsRewriter(), plain(use_edns=-1))
        self.assertEqual((128, [11, 8, 12], 0), (size, codes(sent), sent.ednsflags))

    def test_hop_by_hop_options_are_not_forwarded(self) -> None:
        """
        Cookies, keepalive and padding of the client do not go out; other options do, and a keepalive of ours, without
        a timeout (RFC 7873 §5, RFC 7828 §3.2.1).
        """
        query = plain(use_edns=0, options=[COOKIE, UNKNOWN, KEEPALIVE, NSID, PADDING])
        self.assertEqual([65001, 3, 11, 8, 12], codes(outgoing(EdnsRewriter(), query)[0]))

    def test_client_subnet_is_denied_removed_or_forwarded(self) -> None:
        """
        Upstreams are asked not to use any, told nothing, or told what the client said (RFC 7871 §7.1.2).
        """
        query = plain(use_edns=0, options=[SUBNET])
        expected = {ClientSubnet.PRIVATE: ["0.0.0.0/0"], ClientSubnet.OFF: [], ClientSubnet.PASS: ["192.0.2.0/24"]}
        for subnet, told in expected.items():
            sent, _ = outgoing(EdnsRewriter(subnet=subnet), query)
            subnets = [option for option in sent.options if isinstance(option, dns.edns.ECSOption)]
            self.assertEqual(told, [f"{option.address}/{option.srclen}" for option in subnets])

    def test_block_of_zero_disables_padding(self) -> None:
        """
        With a block of 0 there is no padding.
        """
        sent, size = outgoing(EdnsRewriter(0, ClientSubnet.OFF), plain(use_edns=-1))
        self.assertEqual(([11], 12 + 14 + 11 + 4), (codes(sent), size))

    def test_signed_query_is_unchanged(self) -> None:
        """
        A signed message goes out as it came (RFC 8945 §5.5).
        """
        query = plain(use_edns=0, options=[COOKIE])
        query.use_tsig(dns.tsig.Key("key.", b"secret"))
        wire = query.to_wire()
        self.assertTrue(parse_query(wire).is_signed)
        self.assertEqual(wire, EdnsRewriter().rewrite_query(wire, parse_query(wire)))

    def test_messages_of_a_signed_transfer_are_unchanged_except_the_id(self) -> None:
        """
        They go to the client as they came, but for the ID: their signatures are for it (RFC 8945 §5.3.1).
        """
        query = dns.message.make_query("www.test.", "AXFR")
        query.use_tsig(dns.tsig.Key("key.", b"secret"))
        wire = query.to_wire()
        reply = b"\x12\x34\x85\x80" + bytes(8) + b"whatever"
        self.assertEqual(wire[:2] + reply[2:], EdnsRewriter().rewrite_transfer_message(wire, parse_query(wire), reply))

    def test_query_signed_with_sig0_is_unchanged(self) -> None:
        """
        So does one whose last record is a SIG(0), a SIG of the root in class ANY (RFC 2931 §3).
        """
        query = plain(use_edns=0, options=[COOKIE]).to_wire()
        rdata = b"\0\0\x0f\0" + bytes(4) + bytes(12) + b"\0" + bytes(64)
        record = b"\0\0\x18\0\xff" + bytes(4) + len(rdata).to_bytes(2, "big") + rdata
        wire = query[:10] + b"\0\2" + query[12:] + record
        self.assertTrue(parse_query(wire).is_signed)
        self.assertEqual(wire, EdnsRewriter().rewrite_query(wire, parse_query(wire)))

    def test_other_records_of_a_query_are_kept(self) -> None:
        """
        Records a question carries beside OPT stay.
        """
        for edns in (-1, 0):
            query = plain(use_edns=edns)
            query.additional.append(A_RECORD)
            query.authority.append(A_RECORD)
            sent, size = outgoing(EdnsRewriter(), query)
            self.assertEqual(([A_RECORD], [A_RECORD]), (sent.additional, sent.authority))
            self.assertEqual(0, size % 128)

    def test_query_without_room_for_padding_is_unchanged(self) -> None:
        """
        A question that padding would make longer than a message can be goes out as it is.
        """
        record = b"\0\0\x10\0\1" + bytes(4) + (65400).to_bytes(2, "big") + bytes(65400)
        wire = make_query("www.test.", 1, edns=False)
        wire = wire[:10] + b"\0\1" + wire[12:] + record
        self.assertLessEqual(len(wire), 65535)
        self.assertEqual(wire, EdnsRewriter(4096).rewrite_query(wire, look(EdnsRewriter(4096), wire)))

    def test_forwarded_options_are_limited_to_512_octets(self) -> None:
        """
        Options of 512 octets in all travel; of longer ones none does, and the query is asked without them.
        """
        for size, passed in ((508, 512), (509, 0)):
            option = (65001).to_bytes(2, "big") + size.to_bytes(2, "big") + bytes(size)
            wire = make_query("www.test.", 1)[:-2] + len(option).to_bytes(2, "big") + option
            info = look(EdnsRewriter(), wire)
            self.assertEqual(passed, len(info.forwarded_options))
            sent = dns.message.from_wire(EdnsRewriter().rewrite_query(wire, info))
            self.assertEqual(bool(passed), 65001 in [int(option.otype) for option in sent.options])

    def test_octets_after_the_query_are_not_forwarded(self) -> None:
        """
        What follows a whole query does not go out.
        """
        for edns in (False, True):
            wire = make_query("www.test.", 1, edns=edns)
            rewriter = EdnsRewriter()
            self.assertEqual(
                rewriter.rewrite_query(wire, parse_query(wire)),
                rewriter.rewrite_query(wire + b"junk", parse_query(wire + b"junk")),
            )

    def test_octets_after_the_last_record_are_not_forwarded(self) -> None:
        """
        What stands after the last record is not passed on either: with an OPT behind it, it would be read as a record.
        """
        other = b"\0\0\x0f\0\1" + bytes(4) + b"\0\4text"
        opt = opt_record(1232)
        head = b"\x12\x34\1\0\0\1\0\0\0\0"
        question = b"\3www\4test\0\0\1\0\1"
        for count, records in ((1, other), (2, opt + other), (2, other + opt)):
            query = head + bytes((0, count)) + question + records + b"\xc0"
            with self.subTest(query=query):
                sent = EdnsRewriter().rewrite_query(query, parse_query(query))
                self.assertIn(other, sent)
                self.assertEqual(len(sent), records_of(sent, 12 + len(question)).end)
                self.assertEqual(query[:10], with_minimal_opt(sent)[:10])

    def test_malformed_option_is_formerr(self) -> None:
        """
        An option cut short, or past the end of its OPT, is a FORMERR (RFC 6891 §7).
        """
        for rdata in (b"\0", b"\0\x0a\0", b"\0\x0a\0\x08short"):
            wire = make_query("www.test.", 1)[:-2] + len(rdata).to_bytes(2, "big") + rdata
            error = self.assertRaises(WireError, EdnsRewriter().forwarded_options, wire, parse_query(wire))
            self.assertEqual(FORMERR, error.rcode)


class LeastOptTests(SynchronousTestCase):
    """
    A question as it leaves once more, if there was no room for its OPT in the answer.
    """

    @given(queries())
    def test_reduced_query_differs_in_its_opt_only(self, query: dns.message.Message) -> None:
        """
        It is the same but for its OPT: with DO that has no options, without DO there is none; and nothing is less.
        """
        wire = query.to_wire()
        try:
            sent = EdnsRewriter().rewrite_query(wire, look(EdnsRewriter(), wire))
        except WireError:
            return
        less = with_minimal_opt(sent)
        end = parse_query(sent).opt_at
        if query.edns >= 0 and query.ednsflags & 0x8000:
            self.assertEqual(sent[:end] + opt_record(1232, 0, 0x8000), less)
        else:
            self.assertEqual((sent[:10] + b"\0\0" + sent[12:end], -1), (less, dns.message.from_wire(less).edns))
        self.assertEqual(b"", with_minimal_opt(less))

    def test_reduced_query_keeps_other_records(self) -> None:
        """
        They stay.
        """
        query = plain(use_edns=0)
        query.additional.append(A_RECORD)
        wire = query.to_wire()
        less = dns.message.from_wire(with_minimal_opt(EdnsRewriter().rewrite_query(wire, parse_query(wire))))
        self.assertEqual(([A_RECORD], -1), (less.additional, less.edns))


class IncomingTests(SynchronousTestCase):
    """
    Answers.
    """

    def test_response_to_a_client_with_edns_has_our_opt(self) -> None:
        """
        A client with EDNS gets an OPT of ours: our size, its DO, what options are not between neighbours, and
        the upstream's extended rcode (RFC 6891 §6.1.1, §6.1.3, RFC 7830 §6).
        """
        for do in (False, True):
            query = plain(use_edns=0, want_dnssec=do, options=[NSID])
            upstream = reply_to(query, NSID, COOKIE, UNKNOWN, KEEPALIVE, PADDING, SUBNET, dns.edns.EDEOption(6))
            upstream.set_rcode(dns.rcode.BADCOOKIE)
            answer = incoming(EdnsRewriter(), query, upstream)
            self.assertEqual((0, 1232, [3, 65001, 15]), (answer.edns, answer.payload, codes(answer)))
            self.assertEqual(do, bool(answer.ednsflags & dns.flags.DO))
            self.assertEqual(dns.rcode.BADCOOKIE, answer.rcode())
            self.assertEqual([A_RECORD], answer.answer)

    def test_response_to_a_client_without_edns_has_no_opt(self) -> None:
        """
        A client without EDNS gets none, whatever went on upstream (RFC 6891 §7).
        """
        answer = incoming(EdnsRewriter(), plain(use_edns=-1), reply_to(plain(use_edns=0), PADDING))
        self.assertEqual((-1, [A_RECORD], []), (answer.edns, answer.answer, answer.additional))

    def test_client_with_edns_gets_opt_from_an_upstream_without(self) -> None:
        """
        A client with EDNS gets an OPT even if the upstream sent none (RFC 6891 §6.1.1).
        """
        answer = incoming(EdnsRewriter(), plain(use_edns=0), reply_to(plain(), edns=False))
        self.assertEqual((0, [], [A_RECORD]), (answer.edns, codes(answer), answer.answer))

    def test_extended_rcode_is_servfail_without_edns(self) -> None:
        """
        An extended rcode becomes SERVFAIL for a client without EDNS; its lower bits alone would say another.
        """
        upstream = reply_to(plain(use_edns=0))
        upstream.set_rcode(dns.rcode.BADVERS)
        answer = incoming(EdnsRewriter(), plain(use_edns=-1), upstream)
        self.assertEqual((dns.rcode.SERVFAIL, []), (answer.rcode(), answer.answer))

    def test_client_subnet_scope_is_returned_if_forwarded(self) -> None:
        """
        Its scope comes back if it was passed on (RFC 7871 §7.2.2).
        """
        query = plain(use_edns=0, options=[SUBNET])
        self.assertEqual([8], codes(incoming(EdnsRewriter(subnet=ClientSubnet.PASS), query, reply_to(query, SUBNET))))

    def test_other_additional_records_keep_their_place(self) -> None:
        """
        Records before and after OPT stay where they are.
        """
        query = plain(use_edns=0)
        upstream = reply_to(query)
        upstream.additional.append(A_RECORD)
        answer = incoming(EdnsRewriter(), query, upstream)
        self.assertEqual(([A_RECORD], 0), (answer.additional, answer.edns))

    def test_only_the_opt_changes(self) -> None:
        """
        Up to the OPT an answer is the upstream's, octet for octet, compression and all.
        """
        query = make_query("wWw.test.", 1, ident=0x1234, edns=False)
        reply = b"\xff\xff\x85\x90\0\1\0\1\0\0\0\0" + query[12:].lower() + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
        answer = back(EdnsRewriter(), query, parse_query(query), reply)
        self.assertEqual(query[:2] + reply[2:12] + query[12:] + reply[len(query) :], answer)

    def test_ad_is_returned_if_the_client_set_ad_or_do(self) -> None:
        """
        AD comes back to a client that set AD or DO, and to no other (RFC 6840 §5.8); it is an authenticated upstream's
        (RFC 4035 §4.9.3).
        """
        for flags, do, told in ((0, False, False), (dns.flags.AD, False, True), (0, True, True)):
            query = plain(use_edns=0, want_dnssec=do)
            query.flags |= flags
            upstream = reply_to(query)
            upstream.flags |= dns.flags.AD | dns.flags.CD | dns.flags.RA
            answer = incoming(EdnsRewriter(), query, upstream)
            self.assertEqual(told, bool(answer.flags & dns.flags.AD))
            self.assertEqual(upstream.flags & ~dns.flags.AD, answer.flags & ~dns.flags.AD)

    def test_truncated_response_over_tls_is_an_error(self) -> None:
        """
        A truncated answer over a stream is no answer: there is nothing to ask again over (RFC 2181 §9).
        """
        upstream = reply_to(plain())
        upstream.flags |= dns.flags.TC
        self.assertRaises(TruncatedReply, incoming, EdnsRewriter(), plain(), upstream)

    def test_listener_options_follow_those_of_the_upstream(self) -> None:
        """
        What a listener adds is in the answer's OPT, after what the upstream says.
        """
        query = plain(use_edns=0, options=[NSID]).to_wire()
        reply = reply_to(plain(use_edns=0), NSID).to_wire()
        answer = back(EdnsRewriter(), query, parse_query(query)._replace(response_options=b"\xfd\xe9\0\0"), reply)
        self.assertEqual([3, 65001], codes(dns.message.from_wire(answer)))

    def test_octets_after_a_response_are_dropped(self) -> None:
        """
        What follows a whole answer does not come in, and not between it and OPT.
        """
        for edns in (-1, 0):
            query = plain(use_edns=edns).to_wire()
            for reply in (reply_to(plain(use_edns=0)).to_wire(), reply_to(plain(), edns=False).to_wire()):
                expected = back(EdnsRewriter(), query, parse_query(query), reply)
                self.assertEqual(expected, back(EdnsRewriter(), query, parse_query(query), reply + b"junk"))

    def test_each_ttl_is_reduced_by_the_age(self) -> None:
        """
        Each TTL is less by as much, and none below 0, wherever OPT stands; OPT's flags are no TTL (RFC 6891 §6.1.3).
        """
        query = plain(use_edns=0, ednsflags=0x8000).to_wire()
        reply = reply_to(plain(use_edns=0, ednsflags=0x8000)).to_wire()
        last = b"\2ns\4test\0\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\x09"
        reply = reply[:10] + b"\0\2" + reply[12:] + last
        rewriter = EdnsRewriter()
        answer: Any = rewriter.parse_response(query, parse_query(query), reply)
        for age, ttls in ((0, [60, 300]), (10, [50, 290]), (100, [0, 200]), (1000, [0, 0])):
            parsed = dns.message.from_wire(rewriter.build_response(query, parse_query(query), answer, age))
            self.assertEqual(ttls, [rrset.ttl for rrset in (*parsed.answer, *parsed.additional)])
            self.assertEqual(0x8000, parsed.ednsflags)
        self.assertNotIn(b"\xff\xff", rewriter.build_response(query, parse_query(query), answer, 1000))

    def test_response_of_65535_octets_is_whole(self) -> None:
        """
        Of an answer of 65,535 octets nothing is lost, and it does not grow (RFC 1035 §4.2.2).
        """
        query = make_query("www.test.", 1)
        room = 65535 - (len(query) - 11)
        record = b"\xc0\x0c\xff\0\0\1\0\0\0\0" + (room - 12).to_bytes(2, "big") + b"x" * (room - 12)
        reply = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:-11] + record
        self.assertEqual(65535, len(reply))
        self.assertEqual(reply, back(EdnsRewriter(), query, parse_query(query), reply))

    def test_response_to_a_signed_query_is_unchanged(self) -> None:
        """
        The answer to a signed question comes back as it is.
        """
        query = plain(use_edns=0)
        query.use_tsig(dns.tsig.Key("key.", b"secret"))
        wire = query.to_wire()
        reply = reply_to(plain(use_edns=0), COOKIE).to_wire()
        self.assertEqual(wire[:2] + reply[2:], back(EdnsRewriter(), wire, parse_query(wire), reply))

    def test_malformed_response_is_an_error(self) -> None:
        """
        Records that do not fit, two OPTs, and malformed options are no answer.
        """
        query = plain(use_edns=0).to_wire()
        good = reply_to(plain(use_edns=0)).to_wire()
        two = good[:10] + b"\0\2" + good[12:] + good[-11:]
        odd = good[:-2] + b"\0\1\0"
        for reply in (good[:-1], two, odd):
            self.assertRaises(WireError, back, EdnsRewriter(), query, parse_query(query), reply)

    def test_error_without_question_gets_the_question(self) -> None:
        """
        An error that came without its question gets it back.
        """
        query = plain(use_edns=0).to_wire()
        error = HEADER.pack(0, 0x8181, 0, 0, 0, 0)
        answer = dns.message.from_wire(back(EdnsRewriter(), query, parse_query(query), error))
        self.assertEqual((dns.rcode.FORMERR, 0, 1), (answer.rcode(), answer.edns, len(answer.question)))


class VerbatimTests(SynchronousTestCase):
    """
    The transparent mode.
    """

    def test_transparent_messages_are_unchanged_except_the_id(self) -> None:
        """
        Both ways everything passes as it is, but for the ID.
        """
        query = plain(use_edns=0, options=[COOKIE, PADDING]).to_wire()
        self.assertIs(query, PassthroughRewriter().rewrite_query(query, parse_query(query)))
        reply = reply_to(plain(use_edns=0), COOKIE).to_wire()
        self.assertEqual(query[:2] + reply[2:], back(PassthroughRewriter(), query, parse_query(query), reply))

    @given(queries())
    def test_transparent_query_with_an_opt_is_padded(self, query: dns.message.Message) -> None:
        """
        A question with an OPT is padded to 128 octets (RFC 8467 §4.1), with one padding option, last, in place of the
        client's (RFC 7830 §3); nothing else of it changes but TC.  One without an OPT stays as it is.
        """
        wire = query.to_wire()
        sent = PassthroughRewriter(128).rewrite_query(wire, parse_query(wire))
        if query.edns < 0:
            self.assertEqual(query.flags & ~dns.flags.TC, int.from_bytes(sent[2:4], "big"))
            self.assertEqual((wire[:2], wire[4:]), (sent[:2], sent[4:]))
            return
        self.assertEqual(0, len(sent) % 128)
        self.assertLess(len(sent), len(wire) + 4 + 128)
        self.assertEqual(query.flags & ~dns.flags.TC, int.from_bytes(sent[2:4], "big"))
        info, found = parse_query(wire), parse_query(sent)
        self.assertEqual((wire[:2], wire[4 : info.opt_at + 9]), (sent[:2], sent[4 : info.opt_at + 9]))
        self.assertEqual(info._replace(opt_end=0), found._replace(opt_end=0))
        theirs = [wire[start:end] for code, start, end in options_of(wire, info.opt_at, len(wire)) if code != 12]
        *others, padding = [sent[start:end] for _, start, end in options_of(sent, found.opt_at, len(sent))]
        self.assertEqual(theirs, others)
        self.assertEqual((b"\0\x0c", bytes(len(padding) - 4)), (padding[:2], padding[4:]))

    def test_transparent_query_that_cannot_be_padded_is_unchanged(self) -> None:
        """
        What is signed (RFC 8945 §5.5), has options nobody can read, has something after its OPT, or has no room
        for padding goes out as it came.
        """
        signed = plain(use_edns=0)
        signed.use_tsig(dns.tsig.Key("key.", b"secret"))
        bare = make_query("www.test.", 1)
        long = bare[:-2] + b"\xff\x00" + (65001).to_bytes(2, "big") + (0xFEFC).to_bytes(2, "big") + bytes(0xFEFC)
        for wire in (signed.to_wire(), bare[:-2] + b"\0\1\0", bare + b"junk", long):
            self.assertIs(wire, PassthroughRewriter(4096).rewrite_query(wire, parse_query(wire)))

    def test_transparent_response_has_its_padding_removed(self) -> None:
        """
        An upstream pads what answers a padded question; no client does get that, since none is asked over an encrypted
        transport (RFC 7830 §6), and everything else is the upstream's.
        """
        query = plain(use_edns=0).to_wire()
        unpadded = reply_to(plain(use_edns=0), COOKIE, UNKNOWN).to_wire()
        for options in ((COOKIE, PADDING, UNKNOWN), (COOKIE, UNKNOWN, PADDING)):
            padded = reply_to(plain(use_edns=0), *options).to_wire()
            self.assertEqual(
                query[:2] + unpadded[2:], back(PassthroughRewriter(128), query, parse_query(query), padded)
            )
            self.assertEqual(
                query[:2] + unpadded[2:],
                PassthroughRewriter(128).rewrite_transfer_message(query, parse_query(query), padded),
            )
        alone = HEADER.pack(7, 0x8000, 0, 0, 0, 1) + reply_to(plain(use_edns=0), PADDING).to_wire()[-22:]
        expected = query[:2] + alone[2:12] + alone[12:21] + b"\0\0"
        self.assertEqual(expected, PassthroughRewriter(128).rewrite_transfer_message(query, parse_query(query), alone))

    def test_transparent_response_that_cannot_be_parsed_keeps_its_padding(self) -> None:
        """
        An answer whose records or options cannot be read, one with something after its OPT, one to a signed question,
        and one to a question without an OPT, which should have none, pass as they came.
        """
        query = plain(use_edns=0).to_wire()
        padded = reply_to(plain(use_edns=0), PADDING).to_wire()
        signed = plain(use_edns=0)
        signed.use_tsig(dns.tsig.Key("key.", b"secret"))
        for wire, reply in (
            (query, padded[:-1]),
            (query, padded + b"junk"),
            (query, padded[:-13] + b"\0\x0b\0\x0c\0\x08" + bytes(7)),
            (signed.to_wire(), padded),
            (plain().to_wire(), padded),
        ):
            self.assertEqual(wire[:2] + reply[2:], back(PassthroughRewriter(128), wire, parse_query(wire), reply))
