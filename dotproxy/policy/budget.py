"""
A bound on queries that no client has sent: hedges and prefetches.

Decides by count alone: a share of the clients' queries, and ``BURST`` at once.
"""

from __future__ import annotations

BURST = 20.0


class Budget:
    """
    A budget that grows by ``share`` with each client query; with a ``share`` of 0 it is always empty.
    """

    __slots__ = ("_left", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = BURST if share else 0.0

    @property
    def is_off(self) -> bool:
        """
        Whether the budget is always empty.
        """
        return not self._share

    def credit(self, questions: int) -> None:
        """
        Add the share of so many client queries.
        """
        self._left = min(BURST, self._left + questions * self._share)

    def try_spend(self) -> bool:
        """
        Return whether one more query may be sent, and count it if so.
        """
        if self._left < 1:
            return False
        self._left -= 1
        return True
