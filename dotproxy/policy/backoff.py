"""
How long to wait before dialling an upstream again.

Decides a duration from a count of failures and a jitter; keeps no state and draws no random numbers.
"""

from __future__ import annotations

FIRST = 0.1
#: Nobody is asking: often enough to be back soon, seldom enough not to pester (features.md, C24).
CAP_UNASKED = 30.0
#: Somebody is waiting: a recovered upstream is noticed soon, one that refuses is not dialled more than once a second.
CAP_ASKED = 1.0
#: What jitter adds at most, as a share.
_SPREAD = 0.25


def delay(failures: int, jitter: float, cap: float = CAP_UNASKED) -> float:
    """
    Return seconds to wait after ``failures`` failures in a row (0: none), doubling from ``FIRST`` to ``cap``.

    ``jitter``, from [0, 1), adds up to a quarter, so that many proxies do not dial in step.
    """
    if failures <= 0:
        return 0.0
    # The exponent is bounded so that a long outage cannot overflow a float.
    return min(cap, FIRST * 2.0 ** min(failures - 1, 32)) * (1.0 + jitter * _SPREAD)
