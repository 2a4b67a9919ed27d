"""
One rendering for all requests of a page that arrive at about the same time.

Decides how often a page is rendered: for each request, but at most once in an interval.  A request never gets a
rendering that began before it, so nothing is cached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

Value = TypeVar("Value")


class SharedRender(Generic[Value]):
    """
    Calls ``render`` at the earliest ``interval`` seconds after it was last done; requests until then share the result.

    Owns: the requests that wait.
    """

    def __init__(self, render: Callable[[], Deferred[Value]], interval: float, clock: IReactorTime) -> None:
        self._render = render
        self._interval = interval
        self._clock = clock
        self._waiting: list[Deferred[Value]] = []
        self._is_busy = False
        self._done_at = float("-inf")

    def __call__(self) -> Deferred[Value]:
        """
        Return a Deferred of a rendering that begins now or later.
        """
        waiting: Deferred[Value] = Deferred()
        self._waiting.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            self._schedule()
        return waiting

    def _schedule(self) -> None:
        delay = self._done_at + self._interval - self._clock.seconds()
        if delay > 0:
            self._clock.callLater(delay, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []

        def done(result: Value | Failure) -> None:
            self._done_at = self._clock.seconds()
            self._is_busy = bool(self._waiting)
            if self._is_busy:
                self._schedule()
            for one in waiting:
                one.callback(result)

        maybeDeferred(self._render).addBoth(done)
