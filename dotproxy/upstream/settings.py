"""
What an upstream is built from, beside its endpoint.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime


class UpstreamSettings(NamedTuple):
    """
    What the configuration says of one upstream.

    ``idle_timeout`` is in seconds; ``weight`` is its share of the queries where several are equally good.
    """

    idle_timeout: float = 30.0
    weight: int = 1


class Runtime(NamedTuple):
    """
    Time and randomness.

    ``now`` is a monotonic clock in seconds; ``random_octets(n)`` returns n unpredictable octets; ``jitter()`` returns
    a number from 0 to 1.
    """

    clock: IReactorTime
    now: Callable[[], float]
    random_octets: Callable[[int], bytes]
    jitter: Callable[[], float]
