"""
One DNS-over-TLS conversation, without the I/O: queries are pipelined, replies come in any order (RFC 7858 §3.3,
RFC 7766 §6.2.1.1 and §7).

Decides the ID of each query, and which reply belongs to which query.  Refuses to know time, transports, and what a
query is for: it returns the token that it was given.

Rules it keeps:

* An ID is random, and in use for one query at a time (RFC 7766 §6.2.1, RFC 5452 §9.2).  It stays in use until the
  reply comes or the connection ends, so that a late reply can match its own query only.
* A reply matches if ID, QR, opcode and question agree (RFC 7766 §7).  An error without a question matches by its ID
  (RFC 1035 §4.1.1: a server that could not read the question may leave it out).
* Unmatched messages are ignored; too many of them, or a message shorter than a header, are a protocol error.
* Whoever removes a token from ``outstanding`` has to finish it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from dotproxy.wire.framing import Deframer
from dotproxy.wire.message import HEADER_SIZE

Token = TypeVar("Token")

#: Queries in flight at most: half of all IDs, so that a random one is free at the first or second try.
MAX_OUTSTANDING = 32768

#: A peer may send so many more unmatched messages than replies.
MAX_EXCESS_UNMATCHED = 64


class Conversation(Generic[Token]):
    """
    The queries in flight on one connection.

    ``random_octets(n)`` returns n unpredictable octets, as ``os.urandom`` does.  ``broken`` says, once
    the peer has shown that it does not speak DNS, what it did; nothing it sends counts from then on.
    """

    __slots__ = (
        "_deframer",
        "_ids",
        "_random_octets",
        "outstanding",
        "protocol_error",
        "reply_count",
        "unmatched_count",
    )

    def __init__(self, random_octets: Callable[[int], bytes]) -> None:
        self._random_octets = random_octets
        self._ids: list[int] = []
        self._deframer = Deframer()
        self.outstanding: dict[int, tuple[Token, bytes, int]] = {}
        self.reply_count = 0
        self.unmatched_count = 0
        self.protocol_error = ""

    @property
    def free_ids(self) -> int:
        """
        How many more questions can be outstanding.
        """
        return MAX_OUTSTANDING - len(self.outstanding)

    def submit(self, questions: Iterable[tuple[Token, bytes, int]]) -> bytes:
        """
        Return the octets that ask ``questions``, in one piece.

        Each is a token, a whole query message whose ID does not matter, and the offset after its
        question.  The caller has seen to ``room``.
        """
        pieces: list[bytes] = []
        outstanding = self.outstanding
        for question in questions:
            query = question[1]
            ident = self._free_id()
            outstanding[ident] = question
            pieces.append((len(query) << 16 | ident).to_bytes(4, "big"))
            pieces.append(query[2:])
        return b"".join(pieces)

    def receive(self, data: bytes) -> list[tuple[Token, bytes]]:
        """
        Take octets from the peer; return (token, reply message) for each question they answer.
        """
        answered: list[tuple[Token, bytes]] = []
        if self.protocol_error:
            return answered
        outstanding = self.outstanding
        for reply in self._deframer.feed(data):
            if len(reply) < HEADER_SIZE:
                self.protocol_error = f"a message of {len(reply)} octets"
                break
            ident = reply[0] << 8 | reply[1]
            question = outstanding.get(ident)
            if question is not None and _answers(question[1], question[2], reply):
                del outstanding[ident]
                answered.append((question[0], reply))
                continue
            self.unmatched_count += 1
            if self.unmatched_count > self.reply_count + len(answered) + MAX_EXCESS_UNMATCHED:
                self.protocol_error = f"{self.unmatched_count} messages that answer nothing"
                break
        self.reply_count += len(answered)
        return answered

    def abandon(self) -> list[Token]:
        """
        End the conversation; return what was outstanding, oldest first, now the caller's to finish.
        """
        tokens = [question[0] for question in self.outstanding.values()]
        self.outstanding.clear()
        return tokens

    def _free_id(self) -> int:
        while True:
            if not self._ids:
                octets = self._random_octets(512)
                self._ids = [octets[i] << 8 | octets[i + 1] for i in range(0, 512, 2)]
            ident = self._ids.pop()
            if ident not in self.outstanding:
                return ident


def _answers(query: bytes, question_end: int, reply: bytes) -> bool:
    if not reply[2] & 0x80 or (reply[2] ^ query[2]) & 0x78:
        return False
    if reply[4:6] != b"\0\1":
        return reply[4:6] == b"\0\0" and bool(reply[3] & 0x0F)
    asked, echoed = query[HEADER_SIZE:question_end], reply[HEADER_SIZE:question_end]
    # The name may come back spelled otherwise (RFC 4343); type and class, its last four octets, may not.
    return echoed == asked or (echoed[-4:] == asked[-4:] and echoed[:-4].lower() == asked[:-4].lower())
