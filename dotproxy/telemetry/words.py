"""
Numbers in sentences.

Decides the plural.
"""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """
    Return a number of things: ``1 answer``, ``2 answers``.
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
