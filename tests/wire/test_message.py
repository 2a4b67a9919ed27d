"""
What is seen of a query, and what its sender is told if it is none.
"""

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.wire import message as message_module
from dotproxy.wire.edns import opt_record
from dotproxy.wire.message import (
    BADVERS,
    FORMERR,
    NOTIMP,
    QueryInfo,
    parse_query,
    question_of,
    records_of,
)

HEAD = "1234 0100 0001 0000 0000 "
QUESTION = "03777777 076578616d706c65 036f7267 00 0001 0001 "
OPT = "00 0029 04d0 00000000 0000 "


def octets(text: str) -> bytes:
    """
    Octets written in hexadecimal, with spaces.
    """
    return bytes.fromhex(text)


#: Packets that are not forwarded: why → (packet, what is said to it; None is nothing).
HOSTILE: dict[str, tuple[str, int | None]] = {
    "nothing at all": ("", None),
    "eleven octets": ("1234 0100 0001 0000 0000 00", None),
    "a response": ("1234 8100 0001 0000 0000 0000" + QUESTION, None),
    "a response that is garbage": ("1234 ffff ffff ffff ffff ffff ffff", None),
    "opcode STATUS": ("1234 1100 0001 0000 0000 0000" + QUESTION, NOTIMP),
    "opcode NOTIFY": ("1234 2100 0001 0000 0000 0000" + QUESTION, NOTIMP),
    "opcode UPDATE, unparseable": ("1234 2800 ffff ffff ffff ffff", NOTIMP),
    "opcode DSO": ("1234 3000 0000 0000 0000 0000", NOTIMP),
    "no question": ("1234 0100 0000 0000 0000 0000", FORMERR),
    "two questions": ("1234 0100 0002 0000 0000 0000" + QUESTION + QUESTION, FORMERR),
    "no question where one is promised": ("1234 0100 0001 0000 0000 0000", FORMERR),
    "a question without class": ("1234 0100 0001 0000 0000 0000 03777777 00 0001", FORMERR),
    "a label past the end": ("1234 0100 0001 0000 0000 0000 3f777777 00 0001 0001", FORMERR),
    "a name that points at itself": ("1234 0100 0001 0000 0000 0000 c00c 0001 0001", FORMERR),
    "a name that points forward": ("1234 0100 0001 0000 0000 0000 c012 0001 0001 0161 00", FORMERR),
    "a pointer into the header": ("1234 0100 0001 0000 0000 0000 0377 7777 c000 0001 0001", FORMERR),
    "label type 0x40": ("1234 0100 0001 0000 0000 0000 41" + "61" * 65 + "00 0001 0001", FORMERR),
    "a name of 256 octets": (
        "1234 0100 0001 0000 0000 0000" + ("3f" + "61" * 63) * 3 + "3e" + "61" * 62 + "00 0001 0001",
        FORMERR,
    ),
    "a name of 257 octets": ("1234 0100 0001 0000 0000 0000" + ("3f" + "61" * 63) * 4 + "00 0001 0001", FORMERR),
    "a record promised, none sent": (HEAD + "0001" + QUESTION, FORMERR),
    "65,535 records promised, none sent": ("1234 0100 0001 ffff ffff ffff" + QUESTION, FORMERR),
    "two records promised, one sent": (HEAD + "0002" + QUESTION + OPT, FORMERR),
    "a record whose owner has label type 0x40": (HEAD + "0001" + QUESTION + "41" + "61" * 65 + OPT, FORMERR),
    "a record whose owner has 256 octets": (
        HEAD + "0001" + QUESTION + ("3f" + "61" * 63) * 3 + "3e" + "61" * 62 + "00 0001 0001 00000000 0000",
        FORMERR,
    ),
    "an OPT cut before its length": (HEAD + "0001" + QUESTION + "00 0029 04d0 00000000", FORMERR),
    "OPT owned by a pointer to the root": (HEAD + "0001" + QUESTION + "c01c" + OPT[3:], FORMERR),
    "rdata past the end": (HEAD + "0001" + QUESTION + "00 0001 0001 00000000 ffff 00", FORMERR),
    "two OPTs": (HEAD + "0002" + QUESTION + OPT + OPT, FORMERR),
    "OPT in the answer section": ("1234 0100 0001 0001 0000 0000" + QUESTION + OPT, FORMERR),
    "OPT in the authority section": ("1234 0100 0001 0000 0001 0000" + QUESTION + OPT, FORMERR),
    "OPT owned by a name": (HEAD + "0001" + QUESTION + "0161" + OPT, FORMERR),
    "OPT rdata past the end": (HEAD + "0001" + QUESTION + "00 0029 04d0 00000000 0004 0000", FORMERR),
    "EDNS version 1": (HEAD + "0001" + QUESTION + "00 0029 04d0 00010000 0000", BADVERS),
    "EDNS version 255": (HEAD + "0001" + QUESTION + "00 0029 04d0 00ff8000 0000", BADVERS),
}

names = st.lists(st.binary(min_size=1, max_size=20), max_size=5).map(lambda parts: dns.name.Name([*parts, b""]))
options = st.lists(
    st.builds(dns.edns.GenericOption, st.sampled_from([3, 8, 10, 11, 12, 65001]), st.binary(max_size=40)), max_size=4
)


@st.composite
def queries(draw: st.DrawFn) -> dns.message.Message:
    """
    Any query dnspython can make.
    """
    message = dns.message.make_query(
        draw(names), draw(st.integers(0, 65535)), draw(st.integers(0, 65535)), flags=draw(st.integers(0, 0x07FF))
    )
    message.set_opcode(0)
    if draw(st.booleans()):
        flags, size = draw(st.sampled_from([0, 0x8000, 0x1234])), draw(st.integers(0, 65535))
        message.use_edns(0, flags, size, options=draw(options))
    return message


class PeekTests(SynchronousTestCase):
    """
    What is seen of a query.
    """

    @given(queries())
    def test_any_query_of_dnspython_is_parsed(self, message: dns.message.Message) -> None:
        """
        Question, OPT, size and flags of any well-formed query are found.
        """
        wire = message.to_wire()
        info = parse_query(wire)
        question = message.question[0]
        self.assertEqual(question.rdtype, info.qtype)
        self.assertEqual(12 + len(question.name.to_wire()) + 4, info.question_end)
        self.assertEqual(message.edns >= 0, bool(info.opt_at))
        self.assertEqual(message.edns >= 0, bool(records_of(wire, info.question_end).opt_at))
        self.assertEqual(max(512, message.payload) if message.edns >= 0 else 512, info.udp_size)
        self.assertEqual(message.ednsflags & 0xFFFF if message.edns >= 0 else 0, info.edns_flags)

    @given(queries(), st.data())
    def test_mutated_queries_are_parsed_or_refused(self, message: dns.message.Message, data: st.DataObject) -> None:
        """
        A query with octets changed, lost or added is seen, or refused in a way its header allows; what dnspython
        can still read is still seen as that.
        """
        wire = bytearray(message.to_wire())
        for _ in range(data.draw(st.integers(0, 4))):
            wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
        keep = data.draw(st.one_of(st.just(len(wire)), st.integers(0, len(wire))))
        self.judge(bytes(wire[:keep]) + data.draw(st.binary(max_size=5)))

    @given(st.binary(max_size=600))
    def test_any_octets_are_parsed_or_refused(self, rubbish: bytes) -> None:
        """
        Any octets are parsed, or refused in a way their header allows.
        """
        self.judge(rubbish)

    def judge(self, packet: bytes) -> None:
        """
        Compare what is seen of a packet with its header, and with what dnspython sees.
        """
        try:
            theirs = dns.message.from_wire(packet, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            theirs = None
        try:
            info = parse_query(packet)
        except WireError as error:
            if len(packet) < 12 or packet[2] & 0x80:
                self.assertIsNone(error.rcode)
            elif packet[2] & 0x78:
                self.assertEqual(NOTIMP, error.rcode)
            elif theirs is not None and theirs.edns > 0:
                self.assertEqual(BADVERS, error.rcode)
            else:
                self.assertIn(error.rcode, (FORMERR, BADVERS))
                if theirs is not None and len(theirs.question) == 1 and packet[4:6] == b"\0\1":
                    self.assertEqual("pointer or unknown label type in the question name", error.reason)
            return
        self.assertEqual((0, b"\0\1"), (packet[2] & 0xF8, packet[4:6]))
        self.assertLessEqual(info.question_end, len(packet))
        self.assertEqual(info.opt_at > 0, packet[info.opt_at : info.opt_at + 3] == b"\0\0\x29")
        if theirs is not None:
            self.assertEqual((theirs.question[0].rdtype, theirs.edns), (info.qtype, 0 if info.opt_at else -1))

    @given(st.integers(1, 15), st.binary(max_size=40))
    def test_every_other_opcode_is_not_implemented(self, opcode: int, rest: bytes) -> None:
        """
        An opcode that is not QUERY gets NOTIMP, whether or not what follows can be parsed (RFC 8906 §3.1.4).
        """
        error = self.assertRaises(WireError, parse_query, b"\x12\x34" + bytes([opcode << 3, 0]) + bytes(8) + rest)
        self.assertEqual(NOTIMP, error.rcode)

    @given(st.integers(0x8000, 0xFFFF), st.binary(min_size=8, max_size=40))
    def test_response_gets_no_response(self, flags: int, rest: bytes) -> None:
        """
        With QR set there is no response, or servers could loop (RFC 1035 §7.3).
        """
        error = self.assertRaises(WireError, parse_query, b"\x12\x34" + flags.to_bytes(2, "big") + rest)
        self.assertEqual((None, "not a query"), (error.rcode, error.reason))

    @given(st.integers(0, 65535).filter(lambda count: count != 1), st.binary(max_size=40))
    def test_query_without_exactly_one_question_is_formerr(self, count: int, rest: bytes) -> None:
        """
        RFC 9619 §4.
        """
        head = b"\x12\x34\1\0" + count.to_bytes(2, "big") + bytes(6)
        error = self.assertRaises(WireError, parse_query, head + rest)
        self.assertEqual((FORMERR, f"{count} questions"), (error.rcode, error.reason))

    def test_malformed_packets_are_refused_by_their_rfc(self) -> None:
        """
        Each kind of rubbish is answered as its RFC says, or not at all (RFC 1035 §4.1.1 and §7.3, RFC 6891
        §6.1.1 and §6.1.3, RFC 8906 §3.1.4, RFC 9619 §4).
        """
        otherwise: dict[str, object] = {}
        for why, (packet, rcode) in HOSTILE.items():
            try:
                otherwise[why] = parse_query(octets(packet))
            except WireError as error:
                if error.rcode != rcode:
                    otherwise[why] = error.rcode
        self.assertEqual({}, otherwise)

    def test_query_without_edns_has_a_size_of_512(self) -> None:
        """
        Without OPT a client accepts 512 octets (RFC 1035 §4.2.1).
        """
        self.assertEqual(QueryInfo(33, 1, 0, 512, 0), parse_query(octets(HEAD + "0000" + QUESTION)))

    def test_sizes_below_512_are_512(self) -> None:
        """
        A smaller size in OPT is treated as 512 (RFC 6891 §6.2.3).
        """
        for size, taken in (("0000", 512), ("0064", 512), ("01ff", 512), ("0200", 512), ("0201", 513), ("ffff", 65535)):
            query = octets(HEAD + "0001" + QUESTION + f"00 0029 {size} 00000000 0000")
            self.assertEqual(taken, parse_query(query).udp_size, size)

    def test_octets_after_the_message_are_ignored(self) -> None:
        """
        Octets after a whole query are skipped.
        """
        self.assertEqual(QueryInfo(33, 1, 0, 512, 0), parse_query(octets(HEAD + "0000" + QUESTION + "ffff")))
        self.assertEqual(
            QueryInfo(33, 1, 33, 1232, 0, 44), parse_query(octets(HEAD + "0001" + QUESTION + OPT + "ffff"))
        )

    def test_records_other_than_opt_are_accepted(self) -> None:
        """
        A query may carry other records, as a TSIG, beside its OPT or without one.
        """
        tsig = "00 00fa 00ff 00000000 0002 aabb"
        self.assertEqual(0, parse_query(octets(HEAD + "0001" + QUESTION + tsig)).opt_at)
        self.assertEqual(33, parse_query(octets(HEAD + "0002" + QUESTION + OPT + tsig)).opt_at)


class QuestionOfTests(SynchronousTestCase):
    """
    Where the question of any message ends.
    """

    def test_question_ends_after_its_class(self) -> None:
        """
        In responses, too.
        """
        self.assertEqual(33, question_of(octets("1234 8100 0001 0000 0000 0000" + QUESTION)))

    def test_message_without_one_question_has_no_end_of_it(self) -> None:
        """
        A message without exactly one well-formed question.
        """
        for packet in ("1234", HEAD + "0000", "1234 0100 0000 0000 0000 0000", HEAD + "0000 03777777 00 0001"):
            self.assertEqual(0, question_of(octets(packet)))

    def test_opt_of_a_reply(self) -> None:
        """
        The OPT of a reply is found behind its other records.
        """
        record = "c00c 0001 0001 00000000 0004 c0000201"
        for counts in ("0001 0000", "0000 0001"):
            reply = octets("1234 8100 0001" + counts + "0001" + QUESTION + record) + opt_record(1232)
            self.assertEqual(len(reply) - 11, records_of(reply, 33).opt_at)
            self.assertRaises(WireError, records_of, reply[:-1], 33)

    def test_reply_without_opt_has_none(self) -> None:
        """
        A reply whose records are no OPT has none.
        """
        self.assertEqual(0, records_of(octets("1234 8100 0001 0000 0000 0000" + QUESTION), 33).opt_at)
        self.assertEqual(
            0, records_of(octets("1234 8100 0001 0000 0000 0001" + QUESTION + "00 0001 0001 00000000 0000"), 33).opt_at
        )


class QueryInfoTests(SynchronousTestCase):
    """
    What is seen of queries that are not like most.
    """

    def test_query_without_question_has_no_type(self) -> None:
        """
        One for a cookie (RFC 7873 §5.4): its question ends where the header does.
        """
        info = parse_query(bytes.fromhex("1234 0100 0000 0000 0000 0001") + opt_record(1400))
        self.assertEqual((12, 0, 12, 1400, 0, 23), info[:6])

    def test_record_other_than_opt_is_not_edns(self) -> None:
        """
        Type and class are read with both of their octets.
        """
        question = b"\1a\0" + b"\1\2" + b"\0\1"
        record = b"\1x\0" + b"\0\1\0\1" + bytes(4) + b"\0\2xx"
        info = parse_query(bytes.fromhex("1234 0100 0001 0000 0000 0001") + question + record)
        self.assertEqual((19, 0x0102, 0, 512, 0, 0, False, b"", b""), info)

    def test_tsig_or_sig0_at_the_end_is_a_signature(self) -> None:
        """
        A TSIG (RFC 8945 §4.2) or a SIG(0) (RFC 2931 §3) at the end; no other type is a signature.
        """
        question = b"\1a\0" + b"\0\1" + b"\0\1"
        for rtype, is_signed in ((23, False), (24, True), (25, False), (249, False), (250, True), (251, False)):
            record = b"\0" + rtype.to_bytes(2, "big") + b"\0\xff" + bytes(4) + b"\0\0"
            info = parse_query(bytes.fromhex("1234 0100 0001 0000 0000 0002") + question + opt_record(1232) + record)
            self.assertEqual((is_signed, 19, 30), (info.is_signed, info.opt_at, info.opt_end), rtype)


class NumberTests(SynchronousTestCase):
    """
    Numbers of RFC 1035 §4.1.1 and its successors.
    """

    def test_flags_and_rcodes_agree_with_dnspython(self) -> None:
        """
        Their numbers are those of dnspython.
        """
        for name in ("QR", "AA", "TC", "RD", "RA", "AD", "CD"):
            self.assertEqual(int(dns.flags.Flag[name]), getattr(message_module, name), name)
        for name in ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS"):
            self.assertEqual(int(dns.rcode.from_text(name)), getattr(message_module, name), name)
        self.assertEqual(0xF << 11, message_module.OPCODE)
