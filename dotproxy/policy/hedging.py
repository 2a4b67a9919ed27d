"""
How many questions may be asked twice only because they are slow.

Decides by count alone: a few of each hundred, and a burst of so many at once.
"""

from __future__ import annotations

#: Of all questions, this share at most.
SHARE = 0.03
BURST = 20.0


class HedgeBudget:
    """
    What is left to spend; with a ``share`` of 0, never anything.
    """

    __slots__ = ("_left", "_share")

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._left = BURST if share else 0.0

    @property
    def is_off(self) -> bool:
        """
        Whether nothing is ever asked twice for being slow.
        """
        return not self._share

    def earn(self, questions: int) -> None:
        """
        So many questions were asked.
        """
        self._left = min(BURST, self._left + questions * self._share)

    def spend(self) -> bool:
        """
        Whether one more may be asked twice; it then counts.
        """
        if self._left < 1:
            return False
        self._left -= 1
        return True
