"""
The settings of client shares: the same record for construction and for a reload.

Decides nothing: what the limits mean is decided by ``client_shares``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dotproxy.policy.access import Network


class ShareLimits(NamedTuple):
    """
    The limits of one client.

    ``rate``: queries a second that a client may send under overload, 0 for no limit; ``prefix_v4`` and ``prefix_v6``:
    the prefix length in bits that makes addresses one client; ``exempt``: networks whose members have no limits.
    """

    rate: float = 1000.0
    prefix_v4: int = 32
    prefix_v6: int = 56
    exempt: tuple[Network, ...] = ()


class ShareSettings(NamedTuple):
    """
    Which clients are served, and what they may use.

    ``is_allowed``: whether an IP address, in presentation form, is served; ``max_in_flight``: queries in flight of all
    clients together; ``limits``: those of one client.
    """

    is_allowed: Callable[[str], bool]
    max_in_flight: int
    limits: ShareLimits = ShareLimits()
