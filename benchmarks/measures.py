"""
What the kernel says a program took: CPU time and memory, of all its processes together.

Decides what belongs to a program: the process that was started and all that descend from it, with their threads.
CPU time is what /proc has in user and system time, so it is right to a clock tick in each process, 10 ms: loads are
to last seconds.  Memory is the resident set, shared pages and mapped files included, as ``ps`` shows it.
"""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/stat after the name in parentheses, which may hold anything.
_PARENT, _USER, _SYSTEM, _RESIDENT = 1, 11, 12, 21


def processes(pid: int) -> list[int]:
    """
    A process and its descendants.
    """
    parents = {int(path.name): _fields(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    tree = [pid]
    for known in tree:
        tree += [child for child, fields in parents.items() if fields and int(fields[_PARENT]) == known]
    return tree


def cpu_seconds(pid: int) -> float:
    """
    User and system time so far.
    """
    return sum(int(fields[_USER]) + int(fields[_SYSTEM]) for fields in _all(pid)) / _TICK


def resident(pid: int) -> int:
    """
    Octets of memory in use.
    """
    return sum(int(fields[_RESIDENT]) for fields in _all(pid)) * _PAGE


def pin(pid: int, cores: set[int]) -> None:
    """
    Keep every thread that there is of a program on some cores; those that it starts later inherit that.
    """
    for process in processes(pid):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def _all(pid: int) -> list[list[str]]:
    return [fields for fields in map(_fields, processes(pid)) if fields]


def _fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it ended since
        return []
