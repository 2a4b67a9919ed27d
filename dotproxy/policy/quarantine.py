"""
Questions that end the connections they are sent on, and are therefore sent on connections of their own.

Some servers close the connection instead of responding (Unbound's ``local-zone: … deny``, dnsdist's ``Drop``), and all
other queries in flight on it are lost.  Decides which questions and zones are isolated, and for how long, from which
ended connections and which were answered.  Reads no clock and knows no connection.
"""

from __future__ import annotations

#: Seconds for which a question or a zone is isolated after it last ended a connection.
QUARANTINE_SECONDS = 60.0

#: So many isolated questions under a name, none of them answered, make the name an isolated zone.
QUESTIONS_FOR_ZONE = 3

#: Questions, and zones, in quarantine at most; the oldest is evicted first.
MAX_ENTRIES = 2000

#: A name of more labels is counted under its last ones only.
_MAX_DEPTH = 8


def name_and_ancestors(name: bytes) -> list[bytes]:
    """
    Return ``name`` (uncompressed wire form, lower case) and the names above it, the root excluded, deepest first.
    """
    found: list[bytes] = []
    offset = 0
    size = len(name)
    while offset < size and name[offset]:
        found.append(name[offset:])
        offset += 1 + name[offset]
    return found[-_MAX_DEPTH:]


def question_key(message: bytes, question_end: int) -> bytes:
    """
    Return what identifies the question of ``message``: its name in lower case (RFC 4343), its type and its class.
    """
    at = question_end - 4
    return message[12:at].lower() + message[at:question_end]


class Quarantine:
    """
    The questions and zones at which one upstream closes connections.

    Questions are as ``question_key`` returns them; times are seconds on the caller's clock.  ``until`` is when the last
    entry expires: later, and while there is none, no lookup is needed.
    """

    __slots__ = ("_counts", "_questions", "_zones", "until")

    def __init__(self) -> None:
        self._questions: dict[bytes, float] = {}
        self._zones: dict[bytes, float] = {}
        self._counts: dict[bytes, int] = {}
        self.until = float("-inf")

    def contains(self, question: bytes, now: float) -> bool:
        """
        Return whether a question is isolated.
        """
        if now >= self.until:
            return False
        if self._questions.get(question, now) > now:
            return True
        zones = self._zones
        return bool(zones) and any(zones.get(name, now) > now for name in name_and_ancestors(question[:-4]))

    def add(self, question: bytes, now: float) -> None:
        """
        Note that a connection ended on which this question alone was in flight.
        """
        if now >= self.until:
            self.clear()
        self.until = until = now + QUARANTINE_SECONDS
        names = name_and_ancestors(question[:-4])
        for zone in names:
            if zone in self._zones:
                self._zones[zone] = until
        if question not in self._questions:
            self._count(names, until)
        self._questions.pop(question, None)
        _remember(self._questions, question, until)

    def remove(self, question: bytes) -> None:
        """
        Note that a question was answered: neither it nor a zone above it is isolated any more.
        """
        self._questions.pop(question, None)
        for name in name_and_ancestors(question[:-4]):
            self._counts.pop(name, None)
            self._zones.pop(name, None)

    def clear(self) -> None:
        """
        Remove all entries.
        """
        self._questions.clear()
        self._zones.clear()
        self._counts.clear()
        self.until = float("-inf")

    def _count(self, names: list[bytes], until: float) -> None:
        """
        Count one more question under each of ``names``; the deepest that has enough of them becomes a zone.
        """
        counts = self._counts
        for name in names:
            count = counts.pop(name, 0) + 1
            if len(counts) >= MAX_ENTRIES:
                del counts[next(iter(counts))]
            counts[name] = count
        for name in names:
            if counts.get(name, 0) >= QUESTIONS_FOR_ZONE:
                self._zones.pop(name, None)
                _remember(self._zones, name, until)
                return


def _remember(known: dict[bytes, float], key: bytes, until: float) -> None:
    if len(known) >= MAX_ENTRIES:
        del known[next(iter(known))]
    known[key] = until
