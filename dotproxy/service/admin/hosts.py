"""
Which HTTP Host headers the admin address accepts: a protection against DNS rebinding.

Decides which names a foreign web page cannot use.  In DNS rebinding a page's own name is made to resolve to this
machine; the browser sends requests here with that name in Host, and lets the page read the responses.  So a name is
accepted only if it cannot be registered by others, or the operator has listed it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

#: Zones that cannot be registered publicly (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal, Kubernetes' .svc).
_LOCAL_ZONES = (".local", ".internal", ".home.arpa", ".test", ".svc")

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]{1,255}))(?::[0-9]{0,5})?")


def is_loopback(host: str) -> bool:
    """
    Return whether an address is a loopback address.
    """
    return ip_address(host.partition("%")[0]).is_loopback


def is_own_host(text: str | None, *, at_loopback: bool, names: Collection[str]) -> bool:
    """
    Return whether a Host header is accepted; ``text`` is None if there was none.

    ``names`` are those that the operator allows, in lower case, "*" for any.  ``at_loopback``: requests come from this
    machine only, so that only its own names and addresses are accepted.
    """
    if not text or "*" in names:  # a browser always sends one
        return True
    found = _HOST.fullmatch(text)
    if found is None:
        return False
    host = (found[1] or found[2]).lower().removesuffix(".")
    if host in names:
        return True
    try:
        ip_address(host)
    except ValueError:
        return _is_local_name(host, at_loopback=at_loopback)
    return not at_loopback or is_loopback(host)


def _is_local_name(host: str, *, at_loopback: bool) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return not at_loopback and ("." not in host or host.endswith(_LOCAL_ZONES))
