"""
How many processors there are for us.

Decides nothing else.  A container may have less of a machine than its processors tell.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

#: Where the kernel says how many microseconds of CPU may be spent in how many: control groups of the second version, in
#: one file, and of the first, in two.
_GROUPS = Path("/sys/fs/cgroup")


def available(groups: Path = _GROUPS) -> int:
    """
    Return how many, at least one.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError, ZeroDivisionError):  # there is no such thing here, or no limit ("max")
            quota, period = map(int, " ".join((groups / name).read_text("ascii") for name in names).split())
            if quota > 0:
                count = min(count, math.ceil(quota / period))
    return max(count, 1)
