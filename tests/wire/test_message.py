"""
What is seen of a query, and what its sender is told if it is none.
"""

import contextlib

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.wire.edns import opt_record
from dotproxy.wire.message import (
    BADVERS,
    FORMERR,
    NOTIMP,
    Peek,
    opt_of,
    peek,
    question_of,
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
    "a pointer for a question name": ("1234 0100 0001 0000 0000 0000 c00c 0001 0001", FORMERR),
    "a pointer into the header": ("1234 0100 0001 0000 0000 0000 0377 7777 c000 0001 0001", FORMERR),
    "label type 0x40": ("1234 0100 0001 0000 0000 0000 41" + "61" * 65 + "00 0001 0001", FORMERR),
    "a name of 257 octets": ("1234 0100 0001 0000 0000 0000" + ("3f" + "61" * 63) * 4 + "00 0001 0001", FORMERR),
    "a record promised, none sent": (HEAD + "0001" + QUESTION, FORMERR),
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
    def test_any_query_is_seen_as_dnspython_made_it(self, message: dns.message.Message) -> None:
        """
        Question, OPT, size and flags of any well-formed query are found.
        """
        wire = message.to_wire()
        seen = peek(wire)
        question = message.question[0]
        self.assertEqual(question.rdtype, seen.qtype)
        self.assertEqual(12 + len(question.name.to_wire()) + 4, seen.question_end)
        self.assertEqual(message.edns >= 0, bool(seen.opt_at))
        self.assertEqual(message.edns >= 0, bool(opt_of(wire, seen.question_end)))
        self.assertEqual(max(512, message.payload) if message.edns >= 0 else 512, seen.udp_size)
        self.assertEqual(message.ednsflags & 0xFFFF if message.edns >= 0 else 0, seen.edns_flags)

    @given(queries(), st.data())
    def test_mutations_are_queries_or_refused(self, message: dns.message.Message, data: st.DataObject) -> None:
        """
        A query with octets changed, lost or added is seen or refused; nothing else can come of it.
        """
        wire = bytearray(message.to_wire())
        for _ in range(data.draw(st.integers(1, 4))):
            wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
        mutant = bytes(wire[: data.draw(st.integers(0, len(wire)))]) + data.draw(st.binary(max_size=5))
        try:
            seen = peek(mutant)
        except WireError as error:
            if error.rcode is None:
                self.assertTrue(len(mutant) < 12 or mutant[2] & 0x80)
        else:
            self.assertLessEqual(seen.question_end, len(mutant))
            self.assertLess(seen.opt_at, len(mutant))

    @given(st.binary(max_size=600))
    def test_arbitrary_octets_are_queries_or_refused(self, rubbish: bytes) -> None:
        """
        No octets do anything but be seen or be refused.
        """
        with contextlib.suppress(WireError):
            peek(rubbish)

    def test_hostile_packets_get_what_the_rules_say(self) -> None:
        """
        Each kind of rubbish is answered as its RFC says, or not at all (RFC 1035 §4.1.1 and §7.3, RFC 6891
        §6.1.1 and §6.1.3, RFC 8906 §3.1.4, RFC 9619 §4).
        """
        for why, (packet, rcode) in HOSTILE.items():
            error = self.assertRaises(WireError, peek, octets(packet))
            self.assertEqual(rcode, error.rcode, why)

    def test_a_query_without_edns_takes_512_octets(self) -> None:
        """
        Without OPT a client takes 512 octets (RFC 1035 §4.2.1).
        """
        self.assertEqual(Peek(33, 1, 0, 512, 0), peek(octets(HEAD + "0000" + QUESTION)))

    def test_sizes_below_512_are_512(self) -> None:
        """
        A smaller size in OPT is treated as 512 (RFC 6891 §6.2.3).
        """
        self.assertEqual(512, peek(octets(HEAD + "0001" + QUESTION + "00 0029 0064 00000000 0000")).udp_size)

    def test_records_that_are_no_opt_do_no_harm(self) -> None:
        """
        A query may carry other records, as a TSIG, beside its OPT or without one.
        """
        tsig = "00 00fa 00ff 00000000 0002 aabb"
        self.assertEqual(0, peek(octets(HEAD + "0001" + QUESTION + tsig)).opt_at)
        self.assertEqual(33, peek(octets(HEAD + "0002" + QUESTION + OPT + tsig)).opt_at)


class QuestionOfTests(SynchronousTestCase):
    """
    Where the question of any message ends.
    """

    def test_one_question(self) -> None:
        """
        It ends after its class, in responses too.
        """
        self.assertEqual(33, question_of(octets("1234 8100 0001 0000 0000 0000" + QUESTION)))

    def test_no_question(self) -> None:
        """
        A message without exactly one well-formed question has no end of one.
        """
        for packet in ("1234", HEAD + "0000", "1234 0100 0000 0000 0000 0000", HEAD + "0000 03777777 00 0001"):
            self.assertEqual(0, question_of(octets(packet)))

    def test_opt_of_a_reply(self) -> None:
        """
        The OPT of a reply is found behind its other records.
        """
        record = "c00c 0001 0001 00000000 0004 c0000201"
        reply = octets("1234 8100 0001 0001 0000 0001" + QUESTION + record) + opt_record(1232)
        self.assertEqual(len(reply) - 11, opt_of(reply, 33))
        self.assertRaises(WireError, opt_of, reply[:-1], 33)
