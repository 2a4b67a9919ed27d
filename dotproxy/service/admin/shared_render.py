"""
One rendering for everybody who asks for the same at about the same time.

Decides how often something is rendered: anew for each who asks, unless they ask faster than that may be.  Nobody gets
what is older than their request, so nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime

Value = TypeVar("Value")


class SharedRender(Generic[Value]):
    """
    ``render`` begins ``interval`` seconds after it was done last, at the earliest; all who asked until then share it.

    Owns: who waits.
    """

    def __init__(self, render: Callable[[], Deferred[Value]], interval: float, clock: IReactorTime) -> None:
        self._render = render
        self._interval = interval
        self._clock: Any = clock
        self._waiting: list[Deferred[Value]] = []
        self._is_busy = False
        self._done_at = float("-inf")

    def __call__(self) -> Deferred[Value]:
        """
        Return a Deferred of a rendering that begins now or later.
        """
        asked: Deferred[Value] = Deferred()
        self._waiting.append(asked)
        if not self._is_busy:
            self._is_busy = True
            self._schedule()
        return asked

    def _schedule(self) -> None:
        delay = self._done_at + self._interval - self._clock.seconds()
        if delay > 0:
            self._clock.callLater(delay, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []

        def done(result: Any) -> None:
            self._done_at = self._clock.seconds()
            self._is_busy = bool(self._waiting)
            if self._is_busy:
                self._schedule()
            for asked in waiting:
                asked.callback(result)

        maybeDeferred(self._render).addBoth(done)
