"""
How many processors there are for us.

Decides nothing else.  A container may have less of a machine than its processors tell.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

#: Where the kernel says how many microseconds of CPU may be spent in how many: cgroups of the second version.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available(read: Callable[[], str] = lambda: _QUOTA.read_text("ascii")) -> int:
    """
    Return how many, at least one; ``read`` returns the text of ``cpu.max``, as ``200000 100000``.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = read().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # there is no such thing here
        pass
    return max(count, 1)
