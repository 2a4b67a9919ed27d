"""
Questions that could not be answered a moment ago (RFC 9520 §3.2).

Decides for how long a failure is not tried again: 5 s, and twice as long each time it fails again, within bounds.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.parsed_response import ParsedResponse

FIRST = 5.0

#: RFC 9520 allows five minutes; nobody who mends something should wait for that.
LONGEST = 40.0

#: So many are remembered.
MAX_ENTRIES = 10000

#: EDNS options of a failure are kept if they are no longer, in octets; an Extended DNS Error has room in that.
MOST_OPTIONS = 512


#: An upstream's error without its records, or the reason why no upstream responded.
FailureResponse = ParsedResponse | ExtendedError


class Failure(NamedTuple):
    """
    ``until`` when it is not tried again; ``what`` is what is answered meanwhile; ``times`` how often it has failed.
    """

    until: float
    times: int
    what: FailureResponse


class FailureObserver(Protocol):
    """
    Who is told what failed and what no longer does.
    """

    def question_failed(self, key: bytes, failure: FailureResponse) -> None:
        """
        It failed; ``failure`` is what is answered to it for now.
        """

    def question_recovered(self, key: bytes) -> None:
        """
        It had failed, and was answered.
        """


class FailureCache:
    """
    By key; times are in seconds on the caller's clock.
    """

    __slots__ = ("_known", "_observer")

    def __init__(self, observer: FailureObserver | None = None) -> None:
        self._known: dict[bytes, Failure] = {}
        self._observer = observer

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> Failure | None:
        """
        Return the last failure, if nothing went well since.
        """
        return self._known.get(key)

    def add(self, key: bytes, what: FailureResponse, now: float) -> None:
        """
        It failed.
        """
        self.learn(key, what, now)
        if self._observer is not None:
            self._observer.question_failed(key, what)

    def learn(self, key: bytes, what: FailureResponse, now: float) -> None:
        """
        It failed elsewhere: the observer need not be told.
        """
        if isinstance(what, ParsedResponse) and len(what.options) > MOST_OPTIONS:
            what = what._replace(options=b"")
        before = self._known.pop(key, None)
        times = 1 + (before.times if before and now < before.until + LONGEST else 0)
        if len(self._known) >= MAX_ENTRIES:
            del self._known[next(iter(self._known))]
        self._known[key] = Failure(now + min(LONGEST, FIRST * 2 ** min(times - 1, 10)), times, what)

    def remove(self, key: bytes) -> None:
        """
        It went well.
        """
        if self._known.pop(key, None) is not None and self._observer is not None:
            self._observer.question_recovered(key)

    def unlearn(self, key: bytes) -> None:
        """
        It went well elsewhere: the observer need not be told.
        """
        self._known.pop(key, None)

    def clear(self) -> None:
        """
        What failed may well go well now.
        """
        self._known.clear()
