"""
Whether an answer from a file is one that can be given to a client.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.key import key_of
from dotproxy.cache.stored_response import check_stored
from dotproxy.errors import WireError
from dotproxy.testing.client import make_query
from dotproxy.testing.zone import A, Zone, address_rdata
from dotproxy.wire.message import parse_query
from dotproxy.wire.names import from_text
from dotproxy.wire.parsed_response import ParsedResponse, parse_reply

QUERY = make_query("www.test.", A)
KEY = key_of(QUERY, parse_query(QUERY))
ZONE = Zone({("www.test.", A): [address_rdata("192.0.2.1"), address_rdata("192.0.2.2")]})
ECS = b"\0\x08\0\x07\0\1\x18\0\xc0\0\2"


def parsed() -> ParsedResponse:
    """
    Return an answer of two records.
    """
    reply = ZONE(QUERY)
    assert reply is not None
    return parse_reply(reply, parse_query(QUERY).question_end, frozenset())


ANSWER = parsed()


def with_head(at: int, value: int) -> ParsedResponse:
    """
    Return the answer with another octet in its header.
    """
    return ANSWER._replace(head=ANSWER.head[:at] + bytes([value]) + ANSWER.head[at + 1 :])


class StoredTests(SynchronousTestCase):
    """
    Each thing that has to hold.
    """

    def refused(self, answer: ParsedResponse = ANSWER, key: bytes = KEY) -> str:
        """
        Return why it is refused.
        """
        return self.assertRaises(WireError, check_stored, key, answer).reason

    def test_valid_stored_response_is_accepted(self) -> None:
        """
        Each form of key is accepted: with DO and CD, and with a client subnet.
        """
        for marks in b"\0", b"\1", b"\2", b"\3":
            check_stored(KEY[:-1] + marks, ANSWER)
            check_stored(KEY[:-1] + marks + ECS, ANSWER)

    def test_malformed_keys_are_rejected(self) -> None:
        """
        A key is a name in lower case, type and class, one octet of flags, and at most a client subnet.
        """
        self.assertEqual("a name in upper case", self.refused(key=KEY.replace(b"www", b"wwW")))
        not_keys: tuple[bytes, ...] = (
            KEY[:-1],
            KEY[:-1] + b"\4",
            KEY + b"x",
            KEY + ECS[:-1],
            KEY + ECS + b"x",
            KEY + b"\0\x08\0",
            KEY + b"\0\x09" + ECS[2:],
        )
        for key in not_keys:
            self.assertEqual("not a key", self.refused(key=key), key)
        check_stored(KEY + b"\0\x08\0\0", ANSWER)

    def test_keys_of_meta_types_are_rejected(self) -> None:
        """
        Types from 128 to 254 are not of data (RFC 6895 §3.1); 127, 255 and 256 are accepted.
        """
        at = KEY.index(b"\0\1\0\1")
        for rtype, passes in ((127, True), (128, False), (254, False), (255, True), (256, True), (384, True)):
            key = KEY[:at] + rtype.to_bytes(2, "big") + KEY[at + 2 :]
            if passes:
                check_stored(key, ANSWER)
            else:
                self.assertEqual("not a key", self.refused(key=key), rtype)

    def test_question_must_match_the_key(self) -> None:
        """
        The question ends where that of the key does.
        """
        for end in (ANSWER.question_end - 1, ANSWER.question_end + 1):
            self.assertEqual("the question is not that of its key", self.refused(ANSWER._replace(question_end=end)))

    def test_header_must_be_of_a_cacheable_response(self) -> None:
        """
        A response, opcode 0, TC clear, NOERROR or NXDOMAIN, no bits in the extended RCODE.
        """
        first, second = ANSWER.head[:2]
        for answer in (
            with_head(0, first & 0x7F),
            *(with_head(0, first | bit) for bit in (0x40, 0x20, 0x10, 0x08, 0x02)),
            *(with_head(1, second & 0xF0 | rcode) for rcode in (1, 2, 4, 5, 15)),
            ANSWER._replace(head=ANSWER.head[:7]),
            ANSWER._replace(head=ANSWER.head + b"\0"),
            ANSWER._replace(extended_rcode=1),
        ):
            self.assertEqual("a header that is not kept", self.refused(answer), answer.head)
        check_stored(KEY, with_head(0, first | 0x05))
        check_stored(KEY, with_head(1, second | 3))

    def test_counts_must_match_question_and_ttls(self) -> None:
        """
        One question, and as many records as there are TTLs.
        """
        for answer in (
            *(with_head(2, 1), with_head(3, 0), with_head(3, 2), with_head(4, 1), with_head(5, 1), with_head(5, 3)),
            *(with_head(6, 1), with_head(7, 1), ANSWER._replace(additional_count=1)),
        ):
            self.assertEqual("counts that are not those of its records", self.refused(answer), answer.head)
        check_stored(KEY, with_head(5, 1)._replace(additional_count=1))
        # Counts have two octets each.
        record = ANSWER.body[: len(ANSWER.body) // 2]
        for at, others in ((4, 5), (6, 7)):
            head = bytearray(ANSWER.head[:4] + bytes(4))
            head[at], head[others] = 1, 44
            ttls = tuple(ANSWER.ttl_offsets[0] + len(record) * number for number in range(300))
            check_stored(KEY, ANSWER._replace(head=bytes(head), body=record * 300, ttl_offsets=ttls))
        check_stored(KEY, with_head(5, 0)._replace(head=with_head(5, 0).head[:7] + b"\2"))

    def test_size_is_limited_to_65535_octets_with_opt(self) -> None:
        """
        With an OPT of 11 octets the message has 65,535 octets at most.
        """
        room = 65535 - 11 - ANSWER.question_end - len(ANSWER.body)
        option = b"\0\x0f" + (room - 4).to_bytes(2, "big") + bytes(room - 4)
        check_stored(KEY, ANSWER._replace(options=option))
        longer = b"\0\x0f" + (room - 3).to_bytes(2, "big") + bytes(room - 3)
        self.assertEqual("longer than a message", self.refused(ANSWER._replace(options=longer)))

    def test_options_must_end_within_their_length(self) -> None:
        """
        EDNS options end at their stated length.
        """
        check_stored(KEY, ANSWER._replace(options=b"\0\x0f\0\0" + b"\0\x0f\1\0" + bytes(256)))
        check_stored(KEY, ANSWER._replace(options=b"\0\x0f\0\1x" + b"\0\x0f\0\0"))
        for options in (b"\0\x0f\0", b"\0\x0f\0\0" + b"\0\x0f\0"):
            self.assertEqual("an EDNS option is cut short", self.refused(ANSWER._replace(options=options)))
        for options in (b"\0\x0f\0\2x", b"\0\x0f\1\0" + bytes(255)):
            self.assertEqual("an EDNS option runs past its end", self.refused(ANSWER._replace(options=options)))

    def test_ttl_offsets_and_records_must_match(self) -> None:
        """
        Each TTL offset is at a record's TTL, and the last record ends with the body.
        """
        there_is_none = "a TTL stands where there is none"
        first, second = ANSWER.ttl_offsets
        for ttls in ((first + 1, second), (first - 1, second), (first, second + 1)):
            self.assertEqual(there_is_none, self.refused(ANSWER._replace(ttl_offsets=ttls)))
        self.assertEqual("octets after the last record", self.refused(ANSWER._replace(body=ANSWER.body + b"x")))
        past = "rdata runs past the end of the message"
        self.assertEqual(past, self.refused(ANSWER._replace(body=ANSWER.body[:-1])))
        cut = "record runs past the end of the message"
        self.assertEqual(cut, self.refused(ANSWER._replace(body=ANSWER.body[: second + 5])))

    def test_record_with_an_uncompressed_owner_is_accepted(self) -> None:
        """
        An owner without compression is walked; rdata has up to 65,535 octets by its length of two octets.
        """
        owner = from_text("a.b.")
        rdata = bytes(300)
        body = owner + b"\0\1\0\1\0\0\0\1" + len(rdata).to_bytes(2, "big") + rdata
        answer = with_head(5, 1)._replace(body=body, ttl_offsets=(len(owner) + 4,))
        check_stored(KEY, answer)
        self.assertTrue(self.refused(answer._replace(body=body[:-1])))

    def test_opt_among_the_records_is_rejected(self) -> None:
        """
        The OPT belongs to one hop (RFC 6891 §6.1.1); type 297 has the same lower octet and is accepted.
        """

        def typed(rtype: int) -> ParsedResponse:
            at = ANSWER.ttl_offsets[0] - 4
            return ANSWER._replace(body=ANSWER.body[:at] + rtype.to_bytes(2, "big") + ANSWER.body[at + 2 :])

        self.assertEqual("OPT twice or out of place", self.refused(typed(41)))
        check_stored(KEY, typed(41 + 256))

    def test_opt_as_the_last_record_is_rejected(self) -> None:
        """
        The place of an OPT in a message is behind all other records.
        """
        opt = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
        answer = with_head(5, 2)._replace(
            additional_count=1, body=ANSWER.body + opt, ttl_offsets=(*ANSWER.ttl_offsets, len(ANSWER.body) + 5)
        )
        self.assertEqual("OPT twice or out of place", self.refused(answer))

    def test_response_without_records_is_accepted(self) -> None:
        """
        A NODATA response without records is valid.
        """
        check_stored(KEY, with_head(5, 0)._replace(body=b"", ttl_offsets=()))
