"""
Messages in a stream.
"""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.wire.framing import MAX_QUERY, Deframer, QueryDeframer, frame

messages = st.lists(st.binary(max_size=300), max_size=8)


class DeframerTests(SynchronousTestCase):
    """
    A stream, however it is cut.
    """

    @given(messages, st.lists(st.integers(1, 40), max_size=60))
    def test_any_cut_gives_the_same_messages(self, sent: list[bytes], cuts: list[int]) -> None:
        """
        Messages come out as they went in, each as soon as its last octet has come, whatever pieces the stream
        comes in (RFC 7766 §8).
        """
        ends = list(itertools.accumulate(2 + len(message) for message in sent))
        stream = b"".join(map(frame, sent))
        deframer = Deframer()
        received: list[bytes] = []
        at = 0
        for cut in [*cuts, len(stream)]:
            received += deframer.feed(stream[at : at + cut])
            at = min(at + cut, len(stream))
            self.assertEqual(sent[: sum(end <= at for end in ends)], received)
            self.assertEqual(at in (0, *ends), deframer.is_between_messages)
        self.assertEqual(sent, received)

    def test_a_frame_is_its_length_and_its_message(self) -> None:
        """
        The length is two octets, the high one first, and does not count itself (RFC 1035 §4.2.2).
        """
        self.assertEqual(b"\1\2" + b"x" * 258, frame(b"x" * 258))

    def test_message_may_arrive_octet_by_octet(self) -> None:
        """
        The octets of its length, too.
        """
        deframer = Deframer()
        stream = frame(b"a" * 600) + frame(b"") + frame(b"b")
        received = [message for octet in stream for message in deframer.feed(bytes([octet]))]
        self.assertEqual([b"a" * 600, b"", b"b"], received)

    def test_longest_message_has_65535_octets(self) -> None:
        """
        RFC 1035 §4.2.2.
        """
        deframer = Deframer()
        self.assertEqual([], deframer.feed(frame(b"x" * 65535)[:-1]))
        self.assertFalse(deframer.is_between_messages)
        self.assertEqual([b"x" * 65535], deframer.feed(b"x"))

    def test_empty_pieces_change_nothing(self) -> None:
        """
        An empty piece completes nothing and breaks nothing.
        """
        deframer = Deframer()
        self.assertEqual([], deframer.feed(b""))
        self.assertEqual([], deframer.feed(b"\0"))
        self.assertEqual([], deframer.feed(b""))
        self.assertEqual([b"z"], deframer.feed(b"\1z"))


class QueryDeframerTests(SynchronousTestCase):
    """
    A stream from a client, of which queries are taken a few at a time.
    """

    @given(
        st.lists(st.one_of(st.binary(max_size=300), st.integers(4090, 9000).map(bytes)), max_size=8),
        st.lists(st.integers(1, 5000), max_size=60),
        st.lists(st.integers(0, 3), max_size=60),
    )
    def test_any_cut_gives_the_same_queries(self, sent: list[bytes], cuts: list[int], mosts: list[int]) -> None:
        """
        Queries come out in order, each when its last octet has come, of those that are too long the first octets; and
        never more than are asked for.
        """
        ends = list(itertools.accumulate(2 + len(message) for message in sent))
        stream = b"".join(map(frame, sent))
        expected = [message[: MAX_QUERY + 1] for message in sent]
        deframer = QueryDeframer()
        received: list[bytes] = []
        at = 0
        for cut, most in itertools.zip_longest([*cuts, len(stream)], mosts, fillvalue=1):
            deframer.feed(stream[at : at + cut])
            at = min(at + cut, len(stream))
            complete = sum(end <= at for end in ends)
            taken = deframer.take(most)
            self.assertEqual(expected[len(received) : complete][:most], taken)
            received += taken
            self.assertEqual(complete > len(received), deframer.has_query)
        received += deframer.take(100)
        self.assertEqual(expected, received)
        self.assertFalse(deframer.has_query)

    def test_overlong_query_is_kept_up_to_the_limit_only(self) -> None:
        """
        Of a message of 60,000 octets no more is kept than shows that it is too long, however it comes; it is given
        when all of it has come, and the next one after it is whole.
        """
        for cut in (1, 7, 4096, 16384):
            deframer = QueryDeframer()
            stream = frame(b"l" * 60000)
            for at in range(0, len(stream), cut):
                self.assertFalse(deframer.has_query)
                deframer.feed(stream[at : at + cut])
                self.assertLessEqual(deframer.kept, MAX_QUERY + 2)
            self.assertTrue(deframer.has_query)
            deframer.feed(frame(b"next"))
            self.assertEqual([b"l" * (MAX_QUERY + 1), b"next"], deframer.take(5))
            self.assertEqual(0, deframer.kept)

    def test_query_of_4096_octets_is_whole_and_4097_shows_it_is_too_long(self) -> None:
        """
        A query of 4,096 octets is given whole, one of 4,097 as well: it is too long by the octet that shows it.
        """
        for length in (MAX_QUERY, MAX_QUERY + 1):
            deframer = QueryDeframer()
            stream = frame(b"q" * length)
            deframer.feed(stream[:-1])
            self.assertEqual([], deframer.take(1))
            deframer.feed(stream[-1:])
            self.assertEqual([b"q" * length], deframer.take(1))

    def test_query_may_arrive_octet_by_octet(self) -> None:
        """
        The stream may come one octet at a time.
        """
        deframer = QueryDeframer()
        received: list[bytes] = []
        for octet in frame(b"a" * 600) + frame(b"") + frame(b"b"):
            deframer.feed(bytes([octet]))
            received += deframer.take(2)
        self.assertEqual([b"a" * 600, b"", b"b"], received)
