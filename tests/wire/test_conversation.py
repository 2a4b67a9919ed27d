"""
The DNS-over-TLS dialogue, without a network.
"""

import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.wire.conversation import MAX_EXCESS_UNMATCHED, MAX_OUTSTANDING, Conversation
from dotproxy.wire.framing import Deframer, frame


def numbers() -> Callable[[int], bytes]:
    """
    A source of octets that is not random, and never the same.
    """
    state = 1

    def octets(count: int) -> bytes:
        nonlocal state
        out = bytearray()
        while len(out) < count:
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            out += (state >> 40).to_bytes(3, "big")
        return bytes(out[:count])

    return octets


class IdTests(SynchronousTestCase):
    """
    IDs of queries.
    """

    def test_each_id_is_two_random_octets(self) -> None:
        """
        None of the octets is used twice (RFC 5452 §4.3): 256 IDs are 512 octets.
        """
        drawn: list[int] = []

        def octets(count: int) -> bytes:
            drawn.append(count)
            return bytes(7 * number % 256 ^ number >> 8 for number in range(count))

        message, end = query(b"a")
        sent = Conversation(octets).submit((number, message, end) for number in range(64))
        size = len(message) + 2
        found = [int.from_bytes(sent[at + 2 : at + 4], "big") for at in range(0, len(sent), size)]
        stream = octets(512)
        pairs = [int.from_bytes(stream[at : at + 2], "big") for at in range(0, 512, 2)]
        self.assertEqual(64, len(set(found)))
        self.assertEqual(set(), set(found) - set(pairs))
        self.assertEqual([512, 512], drawn)


def query(name: bytes, rtype: int = 1) -> tuple[bytes, int]:
    """
    A query and the offset after its question.
    """
    wire = b"\xab\xcd\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\0" + rtype.to_bytes(2, "big") + b"\0\1"
    return wire, len(wire)


def answer(asked: bytes, **changes: bytes) -> bytes:
    """
    A reply to a query as the upstream saw it, with parts changed.
    """
    ident, flags = changes.get("ident", asked[:2]), changes.get("flags", b"\x81\x80")
    return ident + flags + asked[4:12] + changes.get("question", asked[12:]) + changes.get("rest", b"")


class ConversationTests(SynchronousTestCase):
    """
    Questions and answers.
    """

    def setUp(self) -> None:
        """
        A conversation, and the upstream's end of it.
        """
        self.conversation = Conversation(numbers())
        self.upstream = Deframer()

    def ask(self, token: object, name: bytes = b"www", rtype: int = 1) -> bytes:
        """
        Ask; return what the upstream sees.
        """
        return self.upstream.feed(self.conversation.submit([(token, *query(name, rtype))]))[-1]

    def test_query_is_sent_under_another_id(self) -> None:
        """
        All but the ID goes out unchanged, in one frame (RFC 5625 §6.1).
        """
        sent = self.conversation.submit([("t", *query(b"www"))])
        self.assertEqual(len(sent) - 2, int.from_bytes(sent[:2], "big"))
        self.assertEqual(query(b"www")[0][2:], sent[4:])

    def test_batch_is_one_run_of_octets(self) -> None:
        """
        Queries submitted together give one run of octets, in order (RFC 7766 §6.2.1.1 and §8, RFC 7858 §3.3).
        """
        batch = [(n, *query(b"n%d" % n)) for n in range(5)]
        info = self.upstream.feed(self.conversation.submit(batch))
        self.assertEqual([wire[2:] for _, wire, _ in batch], [message[2:] for message in info])

    def test_replies_are_matched_in_any_order(self) -> None:
        """
        RFC 7766 §7.
        """
        info = [self.ask(n, b"n%d" % n) for n in range(3)]
        received = self.conversation.receive(b"".join(frame(answer(asked)) for asked in reversed(info)))
        self.assertEqual([2, 1, 0], [token for token, _ in received])
        self.assertEqual(answer(info[2]), received[0][1])

    def test_reply_that_does_not_match_is_ignored(self) -> None:
        """
        A reply with another ID, question, type, class or opcode, or with QR clear, is no answer, and the right
        one still is (RFC 7766 §7, RFC 5452 §9.1).
        """
        asked = self.ask("t")
        other = bytes([asked[0] ^ 1, asked[1]])
        strays = [
            answer(asked, ident=other),
            answer(asked, flags=b"\x01\x80"),
            answer(asked, flags=b"\xa1\x80"),
            answer(asked, question=asked[12:].replace(b"www", b"wwx")),
            answer(asked, question=asked[12:-4] + b"\0\x1c\0\1"),
            answer(asked, question=asked[12:-4] + b"\0\1\0\3"),
            answer(asked)[:-1],
            answer(asked[:4] + b"\0\2" + asked[6:]),
            answer(asked[:4] + b"\0\0" + asked[6:12], flags=b"\x81\x80"),
        ]
        for stray in strays:
            self.assertEqual([], self.conversation.receive(frame(stray)), stray)
        self.assertEqual(len(strays), self.conversation.unmatched_count)
        self.assertEqual([("t", answer(asked))], self.conversation.receive(frame(answer(asked))))

    def test_name_of_the_reply_is_compared_without_case(self) -> None:
        """
        A name matches whatever the case of its letters (RFC 4343), type and class exactly.
        """
        asked = self.ask("t", rtype=0x4161)
        spelled = answer(asked, question=asked[12:].replace(b"www", b"WwW"))
        self.assertEqual([], self.conversation.receive(frame(answer(asked, question=asked[12:-4] + b"\x61\x61\0\1"))))
        self.assertEqual([("t", spelled)], self.conversation.receive(frame(spelled)))

    def test_error_without_question_is_matched(self) -> None:
        """
        A server that could not parse the question may leave it out of its error (RFC 1035 §4.1.1).
        """
        asked = self.ask("t")
        for stray in (b"\x81\x80", b"\x01\x81", b"\xa1\x81"):
            self.assertEqual([], self.conversation.receive(frame(asked[:2] + stray + b"\0\0" * 4)))
        error = asked[:2] + b"\x81\x81" + b"\0\0" * 4
        self.assertEqual([("t", error)], self.conversation.receive(frame(error)))

    def test_records_of_a_reply_are_not_checked(self) -> None:
        """
        A reply with the right question matches, whatever its records are, and is returned whole.
        """
        asked = self.ask("t")
        reply = answer(asked, rest=b"\xff" * 50)
        self.assertEqual([("t", reply)], self.conversation.receive(frame(reply)))

    def test_id_in_use_is_not_reused(self) -> None:
        """
        It is free again when its reply has arrived (RFC 7766 §6.2.1).
        """
        drawn = iter([b"\0\7" * 256, b"\0\7" * 254 + b"\0\x09" + b"\0\7"])
        conversation = Conversation(lambda count: next(drawn))
        first, second = self.upstream.feed(conversation.submit([("a", *query(b"a")), ("b", *query(b"b"))]))
        self.assertEqual([b"\0\7", b"\0\x09"], [first[:2], second[:2]])
        conversation.receive(frame(answer(first)))
        (third,) = self.upstream.feed(conversation.submit([("c", *query(b"c"))]))
        self.assertEqual(b"\0\7", third[:2])
        self.assertEqual([], conversation.receive(frame(answer(first))))
        self.assertEqual([("c", answer(third))], conversation.receive(frame(answer(third))))

    def test_room_shrinks_with_queries_and_grows_with_replies(self) -> None:
        """
        What is outstanding takes room, and its answer gives it back.
        """
        self.assertEqual(32768, self.conversation.free_ids)
        asked = self.ask("t")
        self.assertEqual(32767, self.conversation.free_ids)
        self.conversation.receive(frame(answer(asked)))
        self.assertEqual(32768, self.conversation.free_ids)

    def test_duplicate_reply_is_ignored(self) -> None:
        """
        The second copy of an answer answers nothing.
        """
        asked = self.ask("t")
        received = self.conversation.receive(frame(answer(asked)) * 2)
        self.assertEqual(["t"], [token for token, _ in received])
        self.assertEqual(1, self.conversation.unmatched_count)

    def test_ids_are_unique_and_not_sequential(self) -> None:
        """
        No two queries in flight share an ID (RFC 7766 §6.2.1, RFC 5452 §9.2).
        """
        batch = [(n, *query(b"n")) for n in range(2000)]
        info = self.upstream.feed(self.conversation.submit(batch))
        idents = [int.from_bytes(message[:2], "big") for message in info]
        self.assertEqual(2000, len(set(idents)))
        steps = {b - a for a, b in itertools.pairwise(idents)}
        self.assertGreater(len(steps), 1500)
        self.assertEqual(MAX_OUTSTANDING - 2000, self.conversation.free_ids)

    def test_short_message_ends_the_conversation(self) -> None:
        """
        A message shorter than a header is no DNS; replies before it count, later ones do not.
        """
        first, second = self.ask(1), self.ask(2)
        for runt in (b"", b"\0\0\0"):
            conversation = self.conversation
            received = conversation.receive(frame(answer(first)) + frame(runt) + frame(answer(second)))
            self.assertEqual([(1, answer(first))], received)
            self.assertEqual(f"a message of {len(runt)} octets", conversation.protocol_error)
            self.assertEqual([], conversation.receive(frame(answer(second))))
            self.assertEqual([2], conversation.abandon())
            self.setUp()
            first, second = self.ask(1), self.ask(2)

    def test_too_many_unmatched_replies_end_the_conversation(self) -> None:
        """
        A peer may send a few more unmatched messages than replies.
        """
        asked = self.ask("t")
        stray = frame(answer(asked, question=b"\0\0\2\0\1"))
        self.conversation.receive(stray * MAX_EXCESS_UNMATCHED)
        self.assertEqual("", self.conversation.protocol_error)
        self.assertEqual([("t", answer(asked))], self.conversation.receive(frame(answer(asked))))
        self.conversation.receive(stray)
        self.assertEqual("", self.conversation.protocol_error)
        self.conversation.receive(stray)
        self.assertEqual(f"{MAX_EXCESS_UNMATCHED + 2} messages that answer nothing", self.conversation.protocol_error)

    def test_condemn_returns_queries_in_flight_once(self) -> None:
        """
        Oldest first.
        """
        info = [self.ask(n, b"n%d" % n) for n in range(4)]
        self.conversation.receive(frame(answer(info[1])))
        self.assertEqual([0, 2, 3], self.conversation.abandon())
        self.assertEqual([], self.conversation.abandon())

    @given(st.binary(max_size=400))
    def test_malformed_messages_match_no_query(self, rubbish: bytes) -> None:
        """
        They raise nothing either.
        """
        conversation = Conversation(numbers())
        conversation.submit([("t", *query(b"a-name-nobody-guesses"))])
        self.assertEqual([], conversation.receive(rubbish))
        self.assertEqual(["t"], conversation.abandon())

    def test_any_sequence_matches_each_query_once(self) -> None:
        """
        Whatever is asked, answered, repeated, dropped or made up, in whatever order and pieces, each question is
        finished once, by its own answer, or given back at the end (RFC 7766 §6.2.1, §7).
        """
        run_state_machine_as_test(ConversationMachine)


class ConversationMachine(RuleBasedStateMachine):
    """
    Any sequence of questions, answers in any order and number, strays and cuts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation(numbers())
        self.upstream = Deframer()
        self.info: dict[int, bytes] = {}
        self.owed: set[int] = set()
        self.on_the_way = b""
        self.tokens = 0

    @rule(count=st.integers(1, 5))
    def submit(self, count: int) -> None:
        """
        Ask.
        """
        tokens = range(self.tokens, self.tokens + count)
        self.tokens += count
        batch = [(token, *query(b"n%d" % token)) for token in tokens]
        for token, message in zip(tokens, self.upstream.feed(self.conversation.submit(batch)), strict=True):
            self.info[token] = message
            self.owed.add(token)

    @precondition(lambda self: self.info)
    @rule(data=st.data(), copies=st.integers(1, 2))
    def answer(self, data: st.DataObject, copies: int) -> None:
        """
        The upstream answers something, perhaps again, perhaps twice.
        """
        token = data.draw(st.sampled_from(sorted(self.info)))
        self.on_the_way += frame(answer(self.info[token])) * copies

    @rule(ident=st.integers(0, 65535))
    def stray(self, ident: int) -> None:
        """
        The upstream says something nobody asked for.
        """
        self.on_the_way += frame(ident.to_bytes(2, "big") + query(b"nothing")[0][2:])

    @precondition(lambda self: self.info)
    @rule(data=st.data())
    def wrong(self, data: st.DataObject) -> None:
        """
        The upstream answers under the right ID, but another question, or as if it were asking.
        """
        asked = self.info[data.draw(st.sampled_from(sorted(self.info)))]
        question = data.draw(st.sampled_from([query(b"nothing")[0][12:], asked[12:-1] + b"\3", asked[12:-4]]))
        flags = data.draw(st.sampled_from([b"\x81\x80", b"\1\0"]))
        self.on_the_way += frame(answer(asked, question=question, flags=flags))

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """
        Some of it arrives.
        """
        cut = data.draw(st.integers(0, len(self.on_the_way)))
        for token, reply in self.conversation.receive(self.on_the_way[:cut]):
            assert token in self.owed, "answered twice, or never asked"
            assert reply == answer(self.info[token]), "somebody else's answer"
            self.owed.remove(token)
        self.on_the_way = self.on_the_way[cut:]

    @invariant()
    def nothing_is_lost(self) -> None:
        """
        What is outstanding is exactly what is owed, each under an ID of its own.
        """
        outstanding = self.conversation.outstanding
        assert {ident: entry[0] for ident, entry in outstanding.items()} == {
            int.from_bytes(self.info[token][:2], "big"): token for token in self.owed
        }
        assert len(outstanding) == len(self.owed) == MAX_OUTSTANDING - self.conversation.free_ids

    def teardown(self) -> None:
        """
        The connection ends: what is owed is given back, oldest first, and nothing comes any more.
        """
        assert self.conversation.abandon() == sorted(self.owed)
        assert self.conversation.receive(self.on_the_way) == []
        assert self.conversation.abandon() == []
