"""
Settings of the cache of responses.

Decides their names, defaults and help texts; ``schema`` has the other settings, and all of them in one tuple.
"""

from __future__ import annotations

from dotproxy.config.setting import Setting
from dotproxy.config.values import number, parse_yes_or_no

CACHING: tuple[Setting, ...] = (
    Setting(
        "cache_size",
        100000,
        number(0, 100_000_000, "answers", whole=True),
        "N",
        "How many answers are kept for as long as their TTLs say; 0 for none.",
    ),
    Setting(
        "cache_memory",
        "128MiB",
        number(1 << 16, 1 << 44, "octets", whole=True),
        "OCTETS",
        "About how much memory they may take in all.",
    ),
    Setting(
        "cache_min_ttl",
        0,
        number(0, 3600, "seconds", whole=True),
        "SECONDS",
        "Answers are kept for at least this long, whatever their TTLs say; names that move often suffer from it.",
    ),
    Setting(
        "cache_max_ttl",
        "1d",
        number(1, 604800, "seconds", whole=True),
        "SECONDS",
        "Answers are kept for no longer than this; clients are told so.",
    ),
    Setting(
        "cache_max_negative_ttl",
        "1h",
        number(0, 86400, "seconds", whole=True),
        "SECONDS",
        "The same for answers that say that there is no such name, or nothing of the type.",
    ),
    Setting(
        "serve_stale",
        "1d",
        number(0, 604800, "seconds"),
        "SECONDS",
        "For how long after its TTL has ended an answer is given, with a TTL of 30 s, if no fresh one is to be had"
        " (RFC 8767); 0 for never.",
    ),
    Setting(
        "prefetch",
        True,
        parse_yes_or_no,
        "BOOL",
        "Ask anew for answers that are asked for often, shortly before they end.",
    ),
)
