"""
The number of CPUs that this process may use: its affinity and its cgroup's quota, whichever is less.

Decides the default number of workers (``workers = "auto"``).
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

#: CPU quota and period in microseconds: one file in cgroup v2, two in cgroup v1 (cgroups(7)).
_GROUPS = Path("/sys/fs/cgroup")


def available(groups: Path = _GROUPS) -> int:
    """
    Return the number of CPUs, at least 1; a quota of 1.5 CPUs counts as 2.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or no limit ("max")
            quota, period = map(int, " ".join((groups / name).read_text("ascii") for name in names).split())
            if quota > 0:
                count = min(count, math.ceil(quota / period))
    return max(count, 1)
