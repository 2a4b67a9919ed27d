"""
Settings of the response cache.

Decides their names, defaults and help texts.  ``schema`` joins them with all other settings.
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
        "Maximum number of cached responses; 0 for no cache.",
    ),
    Setting(
        "cache_memory",
        "128MiB",
        number(1 << 16, 1 << 44, "octets", whole=True),
        "OCTETS",
        "Approximate memory limit of the cache.",
    ),
    Setting(
        "cache_min_ttl",
        0,
        number(0, 3600, "seconds", whole=True),
        "SECONDS",
        "Minimum time a response is cached, even if its TTL is lower. Names whose addresses change often may be out of"
        " date that long.",
    ),
    Setting(
        "cache_max_ttl",
        "1d",
        number(1, 604800, "seconds", whole=True),
        "SECONDS",
        "Maximum time a response is cached; TTLs sent to clients are lowered to it.",
    ),
    Setting(
        "cache_max_negative_ttl",
        "1h",
        number(0, 86400, "seconds", whole=True),
        "SECONDS",
        "Maximum time a negative response (NXDOMAIN or NODATA, RFC 2308) is cached.",
    ),
    Setting(
        "serve_stale",
        "1d",
        number(0, 604800, "seconds"),
        "SECONDS",
        "How long past its expiry a cached response may be served, with a TTL of 30 s, if there is no fresh response"
        " in time (RFC 8767); 0 for never.",
    ),
    Setting(
        "prefetch",
        True,
        parse_yes_or_no,
        "BOOL",
        "Refresh a popular response in the last tenth of its TTL, before it expires.",
    ),
)
