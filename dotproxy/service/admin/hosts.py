"""
Whom a request may be meant for: the HTTP Host.

Decides which names a web page of somebody else's cannot have.  A page may ask any address by a name whose records its
owner changes under way (DNS rebinding); the browser then says that name, and believes the answer to be the page's own.
So a name is accepted only if no stranger can own it, or the operator has named it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

#: Names under these belong to the machine, the house or the cluster (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal).
_LOCAL_ZONES = (".local", ".internal", ".home.arpa", ".test", ".svc")

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]{1,255}))(?::[0-9]{0,5})?")


def is_loopback(host: str) -> bool:
    """
    Return whether an address is one of this machine's own, which no other machine can reach.
    """
    return ip_address(host.partition("%")[0]).is_loopback


def is_own_host(text: str | None, *, at_loopback: bool, names: Collection[str]) -> bool:
    """
    Return whether a Host header (None if there was none) may be answered.

    ``names`` are what the operator allows, in lower case, "*" for any.  ``at_loopback``: only this machine can ask, so
    that only names and addresses of its own are meant.
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
