"""
Numbers in sentences.

Decides the plural.
"""

from __future__ import annotations


def pluralized(number: int, what: str, several: str = "") -> str:
    """
    Return a number of things: ``1 answer``, ``2 answers``; ``several`` is the plural if it is no mere s.
    """
    return f"{number} {what}" if number == 1 else f"{number} {several or what + 's'}"
