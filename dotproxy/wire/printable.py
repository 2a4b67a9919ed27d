"""
Untrusted text in a form that can be written to a log, a terminal or a page.

Decides which characters are escaped: all that have no glyph of their own, so controls, line breaks, and the marks that
turn the direction of writing (bidi).  Refuses to know where the text came from.
"""

from __future__ import annotations

#: Characters of untrusted text that are shown at most.
MAX_TEXT = 500


def printable(text: str) -> str:
    r"""
    Return ``text`` with every character that is not printable escaped as Python does: ``\n``, ``\x1b``, ``\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def printable_lines(text: str) -> str:
    """
    Return the same for text of several lines: line feeds and tabs stay.
    """
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def short_printable(text: str) -> str:
    """
    Return ``text`` as ``printable`` does, cut at ``MAX_TEXT`` characters.
    """
    return printable(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…")


def printable_data(value: object) -> object:
    """
    Return what JSON can hold with all its texts escaped, keys too.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_data(one) for one in value]
    if isinstance(value, dict):
        return {printable(str(key)): printable_data(one) for key, one in value.items()}
    return value
