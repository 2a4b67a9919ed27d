"""
The failure cache: questions that failed a short time ago (RFC 9520 §3.2).

Decides for how long a failure is cached: 5 s, twice as long each time the question fails again, 40 s at most.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.parsed_response import ParsedResponse

#: How long a first failure is cached, in seconds.
FIRST = 5.0

#: The longest time that a failure is cached, in seconds.  RFC 9520 §3.2 allows 300, too long after a repair.
LONGEST = 40.0

#: The most failures in the cache; the oldest is removed.
MAX_ENTRIES = 10000

#: EDNS options of a failure are cached up to this size, in octets; an Extended DNS Error fits.
MOST_OPTIONS = 512


#: An upstream's error without its records, or the reason why no upstream responded.
FailureResponse = ParsedResponse | ExtendedError


class Failure(NamedTuple):
    """
    ``until``: when the failure expires; ``times``: failures in sequence; ``what``: the response until then.
    """

    until: float
    times: int
    what: FailureResponse


class FailureObserver(Protocol):
    """
    Is informed of failures, and of their end.
    """

    def question_failed(self, key: bytes, failure: FailureResponse) -> None:
        """
        Note that a question failed; ``failure`` is the response until the failure expires.
        """

    def question_recovered(self, key: bytes) -> None:
        """
        Note that a question that had failed got a response.
        """


class FailureCache:
    """
    Failures by cache key.  Times are in seconds on the caller's clock.
    """

    __slots__ = ("_known", "_observer")

    def __init__(self, observer: FailureObserver | None = None) -> None:
        self._known: dict[bytes, Failure] = {}
        self._observer = observer

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> Failure | None:
        """
        Return the last failure of a question, expired or not; None if it succeeded since.
        """
        return self._known.get(key)

    def add(self, key: bytes, what: FailureResponse, now: float) -> None:
        """
        Add a failure, and inform the observer.
        """
        self.learn(key, what, now)
        if self._observer is not None:
            self._observer.question_failed(key, what)

    def learn(self, key: bytes, what: FailureResponse, now: float) -> None:
        """
        Add a failure that another process reported; the observer is not informed.
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
        Remove the failure of a question that got a response, and inform the observer.
        """
        if self._known.pop(key, None) is not None and self._observer is not None:
            self._observer.question_recovered(key)

    def unlearn(self, key: bytes) -> None:
        """
        Remove a failure whose end another process reported; the observer is not informed.
        """
        self._known.pop(key, None)

    def clear(self) -> None:
        """
        Remove all failures; the observer is not informed.
        """
        self._known.clear()
