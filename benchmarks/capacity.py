"""
The highest rate a server keeps up with, found by trying a few.

Decides which rates are tried.
"""

from __future__ import annotations

from collections.abc import Callable


def highest(keeps_up: Callable[[int], bool], guess: float, steps: int) -> int:
    """
    Return the highest rate that was kept up with, 0 if none was, in so many tries around a guess.
    """
    low, high, rate = 0.0, 0.0, guess
    for _ in range(steps):
        if keeps_up(int(rate)):
            low = rate
        else:
            high = rate
        rate = (low + high) / 2 if high else low * 1.25
    return int(low)
