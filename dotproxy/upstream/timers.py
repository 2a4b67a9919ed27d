"""
Calls that come later, unless what they are about is no more.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Timers:
    """
    Owns: every call that is to come.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: dict[IDelayedCall, object] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def later(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        """
        Call something later, about its first argument.
        """

        def due() -> None:
            del self._calls[timer]
            call(*args)

        timer = self._clock.callLater(seconds, due)
        self._calls[timer] = args[0] if args else None

    def forget(self, what: object) -> None:
        """
        Drop the calls that are about this.
        """
        for timer in [timer for timer, about in self._calls.items() if about is what]:
            timer.cancel()
            del self._calls[timer]

    def stop(self) -> None:
        """
        Drop them all.
        """
        for timer in self._calls:
            timer.cancel()
        self._calls.clear()
