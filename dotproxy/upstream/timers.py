"""
Calls that come later: one, or many that are cancelled with the object they are about.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


def cancel(timer: IDelayedCall | None) -> None:
    """
    Cancel a call, unless it has been made or cancelled, or there is none.
    """
    if timer is not None and timer.active():
        timer.cancel()


class Timers:
    """
    Owns: the calls that are to come.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: dict[IDelayedCall, object] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def later(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        """
        Make a call in so many seconds, about its first argument.
        """

        def due() -> None:
            del self._calls[timer]
            call(*args)

        timer = self._clock.callLater(seconds, due)
        self._calls[timer] = args[0] if args else None

    def forget(self, what: object) -> None:
        """
        Cancel the calls that are about this object.
        """
        for timer in [timer for timer, about in self._calls.items() if about is what]:
            timer.cancel()
            del self._calls[timer]

    def stop(self) -> None:
        """
        Cancel all calls.
        """
        for timer in self._calls:
            timer.cancel()
        self._calls.clear()
