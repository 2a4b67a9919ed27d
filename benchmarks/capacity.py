"""
The highest rate a server keeps up with, found by trying a few.

Decides which rates are tried: halving what is left between one that was kept up with and one that was not.
"""

from __future__ import annotations

from collections.abc import Callable

#: Of what a server answers when a hundred questions are always outstanding: what is tried first, and what is held for
#: too much.
_FIRST, _TOO_MUCH = 0.85, 1.5


def highest(keeps_up: Callable[[int], bool], guess: float, steps: int) -> int:
    """
    Return the highest rate that was kept up with, 0 if none was, in so many tries around a guess.
    """
    low, high, rate = 0.0, guess * _TOO_MUCH, guess * _FIRST
    for _ in range(steps):
        if keeps_up(int(rate)):
            low = rate
        else:
            high = rate
        rate = (low + high) / 2
    return int(low)
