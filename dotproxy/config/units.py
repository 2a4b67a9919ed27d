"""
Times and sizes with units: ``500ms``, ``1h30m``, ``1d``; ``64k``, ``128M``, ``1GiB``.

Decides which units are accepted and their values.  Refuses to know any setting or limit.
"""

from __future__ import annotations

import re
from fractions import Fraction

#: The units of times, in the order in which they must be written; each at most once.
_SECONDS: tuple[tuple[str, int | Fraction], ...] = (
    ("w", 604800),
    ("d", 86400),
    ("h", 3600),
    ("(?:min|m(?!s))", 60),
    ("(?:sec|s)", 1),
    ("ms", Fraction(1, 1000)),
)
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_TIME = re.compile("".join(rf"(?:{_NUMBER} *{unit} *)?" for unit, _ in _SECONDS), re.IGNORECASE)

#: Powers of 1024, with and without "iB", as in Unbound, BIND and systemd.  MB is not accepted, because it is ambiguous:
#: 1,000,000 or 1,048,576 octets.
_PREFIXES = "kMGT"
_SIZE = re.compile(rf"{_NUMBER} *([{_PREFIXES}])(?:iB?)?", re.IGNORECASE)


def seconds_of(text: str) -> Fraction:
    """
    Return a time with units in seconds.

    :raises ValueError: if the text is not a time with units.
    """
    text = text.strip()
    found = _TIME.fullmatch(text)
    if not text or not found:
        raise ValueError(f"{text!r} is not a time with units")
    return sum((Fraction(n) * worth for n, (_, worth) in zip(found.groups(), _SECONDS, strict=True) if n), Fraction(0))


def octets_of(text: str) -> Fraction:
    """
    Return a size with a unit in octets.

    :raises ValueError: if the text is not a size with a unit.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size with a unit")
    return Fraction(found[1]) * (1024 << 10 * _PREFIXES.lower().index(found[2].lower()))


def show_seconds(seconds: float) -> str:
    """
    Return a time in the syntax of ``seconds_of``: ``1h30m``, ``1d``, ``2.5s``, ``500ms``.
    """
    if 0 < seconds < 1 and (seconds * 1000).is_integer():
        return f"{int(seconds * 1000)}ms"
    if seconds != int(seconds) or seconds < 60:
        return f"{plain(seconds)}s"
    rest, parts = int(seconds), ""
    for unit, worth in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, worth)
        parts += f"{count}{unit}" if count else ""
    return parts


def show_octets(octets: float) -> str:
    """
    Return a size in the syntax of ``octets_of``: ``128MiB``, ``1232``.
    """
    shown, prefix = int(octets), ""
    for larger in _PREFIXES:
        if not shown or shown % 1024:
            break
        shown, prefix = shown // 1024, larger
    return f"{shown}{prefix.replace('k', 'K')}iB" if prefix else str(shown)


def plain(number: float) -> str:
    """
    Return a number in digits, never with an exponent: 1000000, 0.05.
    """
    return str(int(number)) if number == int(number) else f"{number:f}".rstrip("0")
