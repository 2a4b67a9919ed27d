"""
The time that datagrams wait in the receive buffer of a UDP socket.

Decides which datagrams are too old to be answered.  A stub resolver retries after 1 s (Windows), 2 s (c-ares) or 5 s
(glibc, musl) and gives up after 5 s to 10 s, so a query that waited for ``MAX_WAIT`` would be answered too late or
twice.  If the buffer has not been read empty for ``SUSTAINED_AFTER``, more queries arrive than can be answered, and a
long queue only delays them all: then the limit is ``SUSTAINED_MAX_WAIT`` (as CoDel, RFC 8289 §3, with drops from the
head of the queue).

On Linux, SIOCGSTAMPNS (socket(7)) returns the arrival time of the datagram that was read last, at the cost of one
system call.  It is called after a full batch only: a smaller batch leaves the buffer empty.  The first call turns
timestamps on; datagrams that arrived before it count as new.  On other systems no datagram is too old.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable

#: Seconds: the longest wait, the time after which load counts as sustained, and the longest wait under sustained load.
MAX_WAIT = 2.0
SUSTAINED_AFTER = 1.0
SUSTAINED_MAX_WAIT = 0.25

#: In <asm-generic/sockios.h>; returns a struct timespec.
_SIOCGSTAMPNS = 0x8907
_TIMESPEC = struct.Struct("@ll")


class ReceiveQueue:
    """
    The receive buffer of a socket.

    ``delay`` is the time that the last datagram of the last batch had waited, in seconds; 0.0 if that batch was not
    full.  ``now`` returns seconds since 1970, as the kernel's timestamps.
    """

    __slots__ = ("_bound", "_busy_since", "_now", "delay")

    def __init__(self, bound: socket.socket, now: Callable[[], float] = time.time) -> None:
        self._bound = bound
        self._now = now
        self._busy_since: float | None = None
        self.delay = 0.0

    def was_emptied(self) -> None:
        """
        Note a batch that was not full, so that the buffer is empty.
        """
        self._busy_since = None
        self.delay = 0.0

    def is_stale(self) -> bool:
        """
        Note a full batch; return whether its last datagram, and so all of it, has waited too long.
        """
        now = self._now()
        # The clock may have been set back.
        self.delay = max(0.0, now - _arrival(self._bound, now))
        if self._busy_since is None:
            self._busy_since = now
        is_sustained = now - self._busy_since >= SUSTAINED_AFTER
        return self.delay > (SUSTAINED_MAX_WAIT if is_sustained else MAX_WAIT)


def _arrival(bound: socket.socket, now: float) -> float:
    """
    Return when the datagram that was read last arrived; ``now`` where the system does not tell.
    """
    if sys.platform != "linux":
        return now
    from fcntl import ioctl

    try:
        seconds, nanoseconds = _TIMESPEC.unpack(ioctl(bound, _SIOCGSTAMPNS, bytes(_TIMESPEC.size)))
    except OSError:  # a sandbox without this call
        return now
    return float(seconds + nanoseconds / 1e9)
