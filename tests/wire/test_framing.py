"""
Messages in a stream.
"""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.wire.framing import Deframer, frame

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

    def test_octet_by_octet(self) -> None:
        """
        A message may come one octet at a time, the octets of its length too.
        """
        deframer = Deframer()
        stream = frame(b"a" * 600) + frame(b"") + frame(b"b")
        received = [message for octet in stream for message in deframer.feed(bytes([octet]))]
        self.assertEqual([b"a" * 600, b"", b"b"], received)

    def test_the_longest_message(self) -> None:
        """
        65,535 octets are one message (RFC 1035 §4.2.2).
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
