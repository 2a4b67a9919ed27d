"""
Numbers in texts.

Decides the plural.
"""

from __future__ import annotations


def pluralized(number: int, noun: str, plural: str = "") -> str:
    """
    Return a number with its noun: ``1 answer``, ``2 answers``; ``plural`` is the plural if it is not regular.
    """
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
