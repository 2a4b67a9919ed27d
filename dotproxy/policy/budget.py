"""
How much may be asked that nobody has asked for: questions asked twice for being slow, answers refreshed in advance.

Decides by count alone: a share of what clients ask, and a burst of so many at once.
"""

from __future__ import annotations

BURST = 20.0


class Budget:
    """
    What is left to spend; with a ``share`` of 0, never anything.
    """

    __slots__ = ("_left", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = BURST if share else 0.0

    @property
    def is_off(self) -> bool:
        """
        Whether there is never anything.
        """
        return not self._share

    def credit(self, questions: int) -> None:
        """
        Clients asked so many questions.
        """
        self._left = min(BURST, self._left + questions * self._share)

    def try_spend(self) -> bool:
        """
        Whether one more may be asked; it then counts.
        """
        if self._left < 1:
            return False
        self._left -= 1
        return True
