"""
Answers of our own making, as dnspython reads them.
"""

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.testing.client import make_query
from dotproxy.wire.edns import DO, MAX_EXTRA_TEXT, ExtendedError, ede_option, opt_record, option
from dotproxy.wire.message import BADVERS, FORMERR, NOTIMP, SERVFAIL, parse_query, question_of
from dotproxy.wire.responses import OUR_UDP_SIZE, refusal, restore_question, truncate
from tests.wire.test_message import HEAD, QUESTION, octets, queries


class RefusalTests(SynchronousTestCase):
    """
    Answers without records.
    """

    @given(queries(), st.sampled_from([0, 1, 2, 3, 4, 5, 16, 23]))
    def test_refusal_has_id_question_and_opt_of_the_query(self, query: dns.message.Message, rcode: int) -> None:
        """
        A refusal has the query's ID, question, RD and CD, the rcode, and OPT if and only if the query has
        (RFC 6891 §6.1.1 and §7).
        """
        wire = query.to_wire()
        info = parse_query(wire)
        octets_ = refusal(wire, rcode, info, ExtendedError(22, "because"))
        reply = dns.message.from_wire(octets_, raise_on_truncation=False)
        self.assertEqual(query.id, reply.id)
        self.assertEqual(query.question, reply.question)
        self.assertEqual(query.edns, reply.edns)
        self.assertTrue(reply.flags & dns.flags.QR)
        self.assertEqual(query.flags & (dns.flags.RD | dns.flags.CD), reply.flags & (dns.flags.RD | dns.flags.CD))
        self.assertTrue(reply.flags & dns.flags.RA)
        self.assertFalse(reply.flags & (dns.flags.AA | dns.flags.TC | dns.flags.AD | 0x40))
        self.assertEqual([], [*reply.answer, *reply.authority, *reply.additional])
        self.assertEqual(wire[12 : info.question_end], octets_[12 : info.question_end])
        if info.opt_at:
            self.assertEqual(rcode, int(reply.rcode()))
            self.assertEqual(query.ednsflags & dns.flags.DO, reply.ednsflags & 0xFFFF)
            self.assertEqual(OUR_UDP_SIZE, reply.payload)
            self.assertEqual([(22, "because")], [(int(o.code), o.text) for o in reply.options])
        else:
            self.assertEqual(rcode & 15, int(reply.rcode()))

    def test_refusal_of_an_unparsable_query_has_a_header(self) -> None:
        """
        A query that cannot be parsed is refused with a header, and its question if that much can be read.
        """
        self.assertEqual(octets("1234 8181 0000 0000 0000 0000"), refusal(octets(HEAD + "0000 ff"), FORMERR))
        two = octets("1234 0100 0002 0000 0000 0000" + QUESTION + QUESTION)
        self.assertEqual(octets("1234 8181 0000 0000 0000 0000"), refusal(two, FORMERR))
        short = octets(HEAD + "0001" + QUESTION)
        self.assertEqual(octets("1234 8181 0001 0000 0000 0000" + QUESTION), refusal(short, FORMERR))

    @given(st.binary(min_size=12, max_size=80), st.sampled_from([FORMERR, NOTIMP, BADVERS]))
    def test_refusal_of_any_octets_is_a_message(self, query: bytes, rcode: int) -> None:
        """
        Whatever is refused unparsed, the refusal is a message with its ID and opcode; RD and CD are copied and RA is
        set for QUERY alone; BADVERS always has an OPT, the others only for octets in which an OPT could stand.
        """
        reply = refusal(query, rcode)
        self.assertEqual(query[:2], reply[:2])
        if query[2] & 0x78:
            self.assertEqual((0x80 | query[2] & 0x78, rcode & 15), (reply[2], reply[3]))
        else:
            self.assertEqual((0x80 | query[2] & 0x01, 0x80 | query[3] & 0x10 | rcode & 15), (reply[2], reply[3]))
        end = question_of(reply) or 12
        self.assertEqual(question_of(query) or 12, end)
        self.assertEqual(query[12:end], reply[12:end])
        if rcode == BADVERS:
            self.assertIn(reply[end:], [opt_record(OUR_UDP_SIZE, BADVERS, do) for do in (0, DO)])
        elif reply[end:]:
            self.assertIn(b"\0\0\x29", query)
            self.assertIn(reply[end:], [opt_record(OUR_UDP_SIZE, rcode, do) for do in (0, DO)])

    @given(queries(), st.integers(1, 15))
    def test_notimp_has_the_opcode_and_no_flag_but_qr(self, query: dns.message.Message, opcode: int) -> None:
        """
        NOTIMP has the opcode as it was sent (RFC 1035 §4.1.1) and no flag but QR, as the others are defined for QUERY
        alone; an OPT with the query's DO if and only if the query has an OPT (RFC 6891 §6.1.1, RFC 3225 §3).
        """
        wire = bytearray(query.to_wire())
        wire[2] |= opcode << 3
        reply = refusal(bytes(wire), NOTIMP)
        self.assertEqual((0x80 | opcode << 3, NOTIMP), (reply[2], reply[3]))
        end = question_of(reply)
        self.assertEqual(wire[12:end], reply[12:end])
        if query.edns < 0:
            self.assertEqual((b"", 0), (reply[end:], reply[11]))
        else:
            do = query.ednsflags & dns.flags.DO
            self.assertEqual((opt_record(OUR_UDP_SIZE, 0, do), 1), (reply[end:], reply[11]))

    def test_notimp_of_a_header_has_id_and_opcode(self) -> None:
        """
        The opcode comes back as it was sent, and nothing else but the ID (RFC 1035 §4.1.1, RFC 8906 §3.1.4).
        """
        for flags in ("2800", "2f70"):
            reply = refusal(octets(f"1234 {flags} 0000 0000 0000 0000"), NOTIMP)
            self.assertEqual(octets("1234 a804 0000 0000 0000 0000"), reply)

    def test_notimp_of_a_message_with_an_opt_has_one(self) -> None:
        """
        An UPDATE with a record before its OPT gets one (RFC 6891 §6.1.1, RFC 2136 §2.2).
        """
        update = octets("1234 2800 0001 0000 0001 0001" + QUESTION + "c00c 0001 0001 00000e10 0004 c0000201")
        reply = refusal(update + opt_record(4096, 0, DO | 0x21), NOTIMP)
        self.assertEqual(octets("1234 a804 0001 0000 0000 0001" + QUESTION) + opt_record(OUR_UDP_SIZE, 0, DO), reply)

    def test_formerr_of_a_query_with_an_opt_has_one(self) -> None:
        """
        A query that is FORMERR for another reason than its OPT, or has two of them, gets one (RFC 6891 §6.1.1 and §7);
        what cannot be walked up to its OPT, or ends within it, gets none.
        """
        opt = "00 0029 04d0 00008000 0000"
        for body in ("0001 0000 0000 0002" + QUESTION + opt + opt, "0001 0001 0000 0001" + QUESTION + opt):
            reply = refusal(octets("1234 0110" + body), FORMERR)
            self.assertEqual(
                octets("1234 8191 0001 0000 0000 0001" + QUESTION) + opt_record(OUR_UDP_SIZE, 0, DO), reply
            )
        two = refusal(octets("1234 0100 0002 0000 0000 0001" + QUESTION + QUESTION + opt), FORMERR)
        self.assertEqual(octets("1234 8181 0000 0000 0000 0001") + opt_record(OUR_UDP_SIZE, 0, DO), two)
        for body in ("0001 0000 0000 0002" + QUESTION + "c0" + opt, "0001 0000 0000 0001" + QUESTION + opt[:-2]):
            reply = refusal(octets("1234 0110" + body), FORMERR)
            self.assertEqual(octets("1234 8191 0001 0000 0000 0000" + QUESTION), reply)

    def test_badvers_has_an_opt_of_version_0(self) -> None:
        """
        BADVERS comes with an OPT of version 0, whatever the query's OPT was (RFC 6891 §6.1.3).
        """
        query = octets(HEAD + "0001" + QUESTION + "00 0029 04d0 00010000 0000")
        reply = dns.message.from_wire(refusal(query, BADVERS))
        self.assertEqual((BADVERS, 0, OUR_UDP_SIZE), (int(reply.rcode()), reply.edns, reply.payload))
        self.assertEqual("www.example.org. IN A", reply.question[0].to_text())

    def test_badvers_copies_do(self) -> None:
        """
        DO comes back, and no other flag of the OPT (RFC 3225 §3, RFC 6891 §6.1.4).
        """
        for flags, told in (("0000", 0), ("8000", DO), ("ffff", DO), ("7fff", 0)):
            query = octets(HEAD + "0001" + QUESTION + f"00 0029 04d0 0001{flags} 0000")
            self.assertEqual(opt_record(OUR_UDP_SIZE, BADVERS, told), refusal(query, BADVERS)[-11:])


class ReplyTests(SynchronousTestCase):
    """
    An upstream's reply on its way to the client.
    """

    def setUp(self) -> None:
        """
        A query, and a reply with other ID and spelling.
        """
        self.query = octets("aaaa 0100 0001 0000 0000 0000 03575757 00 0001 0001")
        self.info = parse_query(self.query)
        self.rest = octets("c00c 0001 0001 00000e10 0004 c0000201")

    def test_only_id_and_spelling_change(self) -> None:
        """
        Everything else of a reply is the upstream's, octet for octet (RFC 5625 §3).
        """
        reply = octets("bbbb 87b0 0001 0001 0000 0000 03777777 00 0001 0001") + self.rest
        expected = octets("aaaa 87b0 0001 0001 0000 0000 03575757 00 0001 0001") + self.rest
        self.assertEqual(expected, restore_question(self.query, self.info, reply))

    def test_error_without_question_gets_the_question(self) -> None:
        """
        A client is told FORMERR in an answer to its question, even if the upstream left that out.
        """
        reply = restore_question(self.query, self.info, octets("bbbb 8181 0000 0000 0000 0000"))
        self.assertEqual(octets("aaaa 8181 0001 0000 0000 0000 03575757 00 0001 0001"), reply)

    def test_error_without_question_has_opt_if_the_query_has(self) -> None:
        """
        A client with EDNS gets an OPT with its error, DO as it was, even if the upstream sent none (RFC 6891 §6.1.1).
        """
        query = octets("aaaa 0110 0001 0000 0000 0001 03575757 00 0001 0001 00 0029 1000 00008001 0000")
        reply = restore_question(query, parse_query(query), octets("bbbb 8185 0000 0000 0000 0000"))
        expected = octets("aaaa 8195 0001 0000 0000 0001 03575757 00 0001 0001") + opt_record(OUR_UDP_SIZE, 0, DO)
        self.assertEqual(expected, reply)

    @given(queries(), st.integers(0, 65535), st.binary(max_size=60))
    def test_any_reply_has_the_id_and_spelling_of_the_query(
        self, query: dns.message.Message, ident: int, rest: bytes
    ) -> None:
        """
        Whatever the query, its reply comes back under its ID, with its spelling, otherwise as the upstream sent it.
        """
        wire = query.to_wire()
        info = parse_query(wire)
        question = wire[12 : info.question_end]
        shouted = question[:-4].upper() + question[-4:]
        tail = b"\x81\x80\0\1\0\7\0\0\0\0"
        reply = restore_question(wire, info, ident.to_bytes(2, "big") + tail + shouted + rest)
        self.assertEqual(wire[:2] + tail + question + rest, reply)


class TruncatedTests(SynchronousTestCase):
    """
    Answers too large for UDP.
    """

    def make_reply(self, query: dns.message.Message) -> bytes:
        """
        A large reply to ``query``.
        """
        reply = dns.message.make_response(query, recursion_available=True)
        reply.flags |= dns.flags.AA | dns.flags.AD
        reply.answer.append(
            dns.rrset.from_text("www.example.org.", 60, "IN", "TXT", *[f'"{n:>200}"' for n in range(9)])
        )
        if query.edns >= 0:
            reply.use_edns(0, query.ednsflags, 4096, options=[dns.edns.GenericOption(65001, b"theirs")])
            reply.set_rcode(dns.rcode.BADCOOKIE)
        return reply.to_wire()

    def test_truncated_response_keeps_flags_rcode_and_opt(self) -> None:
        """
        Header, question, whole records and OPT are left, TC is set, the other flags and the extended rcode survive
        (RFC 2181 §9, RFC 6891 §7).
        """
        query = dns.message.make_query("www.example.org", "TXT", want_dnssec=True)
        wire = query.to_wire()
        whole = restore_question(wire, parse_query(wire), self.make_reply(query))
        cut = truncate(whole, wire, parse_query(wire), 1232)
        reply = dns.message.from_wire(cut, raise_on_truncation=False)
        self.assertTrue(query.is_response(reply))
        self.assertEqual(dns.flags.from_text("QR AA TC RD RA AD"), reply.flags & 0xFFF0)
        self.assertEqual(dns.rcode.BADCOOKIE, reply.rcode())
        self.assertEqual((0, OUR_UDP_SIZE, dns.flags.DO), (reply.edns, reply.payload, reply.ednsflags & 0xFFFF))
        self.assertEqual([(65001, b"theirs")], [(int(o.otype), o.to_wire()) for o in reply.options])
        self.assertEqual(5, len(reply.answer[0]))
        self.assertEqual(33 + 5 * 213 + 11 + 10, len(cut))
        self.assertEqual(whole[12 : 33 + 5 * 213], cut[12:-21])

    def cut_with(self, *options: bytes, limit: int = 512, ours: bytes = b"") -> tuple[int, bytes, int]:
        """
        How many of nine records of 213 octets are left, the options, and the size, of an answer with these options.
        """
        query = dns.message.make_query("www.example.org", "TXT", use_edns=0)
        wire = query.to_wire()
        info = parse_query(wire)._replace(response_options=ours)
        reply = self.make_reply(query)[: 33 + 9 * 213] + opt_record(OUR_UDP_SIZE, 0, 0, b"".join(options) + ours)
        cut = truncate(reply, wire, info, limit)
        self.assertTrue(cut[2] & 2)
        self.assertLessEqual(len(cut), limit)
        records = int.from_bytes(cut[6:8], "big")
        return records, cut[33 + records * 213 + 11 :], len(cut)

    def test_truncated_response_keeps_options(self) -> None:
        """
        What the client is told in an option, as NSID (RFC 5001 §2.3), is told in a truncated answer, too, and so are
        the listener's own, once each.
        """
        nsid, unknown, ours = option(3, b"server 7"), option(65001, b"theirs"), option(10, b"c" * 16)
        self.assertEqual((2, nsid + unknown + ours, 33 + 2 * 213 + 11 + 42), self.cut_with(nsid, unknown, ours=ours))

    def test_options_come_before_records(self) -> None:
        """
        For options other than an Extended DNS Error records make room; one that does not fit at all is left out, and
        those after it, which may, are kept.
        """
        long = option(3, b"n" * 100)
        self.assertEqual((1, long, 33 + 213 + 11 + 104), self.cut_with(long))
        self.assertEqual((2, b"", 33 + 2 * 213 + 11), self.cut_with(option(3, b"n" * 470)))
        last = option(65001, b"")
        self.assertEqual((2, last, 33 + 2 * 213 + 11 + 4), self.cut_with(option(3, b"n" * 470), last))
        exact = option(3, b"n" * (512 - 33 - 11 - 4))
        self.assertEqual((0, exact, 512), self.cut_with(exact))

    def test_records_come_before_extended_errors(self) -> None:
        """
        An Extended DNS Error is the first to go if there is not enough room, and stays if there is (RFC 8914 §3);
        padding is for encrypted transports alone (RFC 7830 §6).
        """
        short, long = ede_option(ExtendedError(3, "")), ede_option(ExtendedError(3, "x" * 60))
        self.assertEqual((2, short, 33 + 2 * 213 + 11 + 6), self.cut_with(short))
        self.assertEqual((2, b"", 33 + 2 * 213 + 11), self.cut_with(long))
        nsid = option(3, b"ns")
        self.assertEqual(
            (2, nsid + short, 33 + 2 * 213 + 11 + 12), self.cut_with(short, long, nsid, option(12, bytes(9)))
        )

    def test_readable_options_of_a_malformed_opt_are_kept(self) -> None:
        """
        Options that can be read are kept.
        """
        nsid = option(3, b"ns")
        self.assertEqual((2, nsid, 33 + 2 * 213 + 11 + 6), self.cut_with(nsid, b"\0\3\0\7x"))

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=12), st.integers(512, 1400), st.booleans()
    )
    def test_as_many_whole_records_as_fit(self, records: list[tuple[int, int]], limit: int, edns: bool) -> None:
        """
        Of any answer the longest run of whole records from the first is kept that leaves room for OPT
        (RFC 2181 §9, RFC 6891 §7).
        """
        records.sort()
        query = dns.message.make_query("www.example.org", "TXT", use_edns=0 if edns else -1)
        wire = query.to_wire()
        info = parse_query(wire)
        pieces = [b"\xc0\x0c\xff\0\0\1\0\0\0\0" + size.to_bytes(2, "big") + b"x" * size for _, size in records]
        counts = [sum(section == at for at, _ in records) for section in range(3)]
        ours = opt_record(OUR_UDP_SIZE) if edns else b""
        head = wire[:2] + b"\x81\x80\0\1" + b"".join(n.to_bytes(2, "big") for n in (*counts[:2], counts[2] + edns))
        whole = head + wire[12 : info.question_end] + b"".join(pieces) + ours
        cut = truncate(whole, wire, info, limit)
        self.assertLessEqual(len(cut), limit)
        kept = 0
        while kept < len(pieces) and info.question_end + sum(map(len, pieces[: kept + 1])) + len(ours) <= limit:
            kept += 1
        self.assertEqual(b"".join(pieces[:kept]) + ours, cut[info.question_end :])
        shown = [sum(section == at for at, _ in records[:kept]) for section in range(3)]
        self.assertEqual([*shown[:2], shown[2] + edns], [int.from_bytes(cut[n : n + 2], "big") for n in (6, 8, 10)])

    @given(queries(), st.integers(0, 15), st.integers(0, 255), st.booleans())
    def test_any_truncated_response_is_read_by_dnspython(
        self, query: dns.message.Message, rcode: int, extended: int, plain: bool
    ) -> None:
        """
        Whatever the query, dnspython reads the cut answer as a truncated one to it, with OPT if and only if the
        query has one, and with the whole rcode the upstream gave (RFC 6891 §6.1.1, §6.1.3, §7).
        """
        wire = query.to_wire()
        info = parse_query(wire)
        opt = b"" if plain else opt_record(4096, extended << 4, DO)
        head = wire[:2] + bytes([0x84, 0x80 | rcode]) + b"\0\1\0\1\0\0" + (b"\0\0" if plain else b"\0\1")
        record = b"\xc0\x0c\0\x10\0\1\0\0\0\0\7\xd1" + b"\xff" * 2001
        cut = truncate(head + wire[12 : info.question_end] + record + opt, wire, info, 512)
        reply = dns.message.from_wire(cut, raise_on_truncation=False)
        self.assertEqual((query.id, query.question, query.edns), (reply.id, reply.question, reply.edns))
        self.assertEqual(dns.flags.QR | dns.flags.AA | dns.flags.TC | dns.flags.RA, reply.flags & 0xFFF0)
        self.assertEqual(rcode | (extended << 4 if query.edns >= 0 and not plain else 0), int(reply.rcode()))
        if query.edns >= 0:
            self.assertEqual(query.ednsflags & dns.flags.DO, reply.ednsflags & 0xFFFF)
        self.assertEqual(info.question_end + (11 if info.opt_at else 0), len(cut))

    def test_truncated_response_has_no_opt_without_edns(self) -> None:
        """
        A client that sent no OPT gets none (RFC 6891 §7).
        """
        wire = dns.message.make_query("www.example.org", "TXT", use_edns=False).to_wire()
        reply = self.make_reply(dns.message.from_wire(wire))
        cut = truncate(reply, wire, parse_query(wire), 512)
        self.assertEqual(wire[:2] + reply[2:4], cut[:2] + bytes([cut[2] & ~2]) + cut[3:4])
        self.assertEqual(b"\0\1\0\2\0\0\0\0" + wire[12:33], cut[4:33])
        self.assertEqual(33 + 2 * 213, len(cut))

    def test_unparsable_reply_is_truncated(self) -> None:
        """
        A large reply whose records make no sense is cut all the same.
        """
        wire = dns.message.make_query("www.example.org", "TXT", use_edns=0).to_wire()
        reply = wire[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + wire[12:33] + b"\xff" * 2000
        cut = dns.message.from_wire(truncate(reply, wire, parse_query(wire), 1232), raise_on_truncation=False)
        self.assertEqual((0, True), (int(cut.rcode()), bool(cut.flags & dns.flags.TC)))

    def test_servfail_always_fits(self) -> None:
        """
        A SERVFAIL with the longest question and the longest reason is an answer of 512 octets at most.
        """
        name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
        query = octets(HEAD + "0001") + name + octets("0001 0001 00 0029 04d0 00000000 0000")
        reply = refusal(query, SERVFAIL, parse_query(query), ExtendedError(22, "x" * 999))
        self.assertLessEqual(len(reply), 512)
        self.assertEqual("x" * (MAX_EXTRA_TEXT - 3) + "...", dns.message.from_wire(reply).options[0].text)

    def test_records_of_an_unknown_label_type_are_left_out(self) -> None:
        """
        A record whose owner cannot be read is not sent, nor what comes after it (RFC 1035 §4.1.4: pointers are 11).
        """
        query = make_query("www.test.", 1, edns=False)
        info = parse_query(query)
        for first, kept in ((0xC0, 2), (0xBF, 0), (0x80, 0)):
            records = (bytes([first, 12]) + b"\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1") * 2
            long = b"\xc0\x0c" + b"\0\x10\0\1\0\0\0\x3c\2\x58" + bytes(600)
            reply = query[:2] + b"\x81\x80\0\1\0\3\0\0\0\0" + query[12:] + records + long
            cut = truncate(reply, query, info, 512)
            self.assertEqual(kept, int.from_bytes(cut[6:8], "big"), hex(first))
