"""
How long datagrams wait in the receive buffer of a UDP socket before they are read.

Decides which of them are too old to be answered.  A stub resolver asks again after 1 s (Windows, c-ares 2 s) to 5 s
(glibc, musl) and gives up after 5 s to 10 s, so a query that waited for ``MAX_WAIT`` is answered too late or twice.
While the buffer has not been read empty for ``SUSTAINED_AFTER``, more comes than can be answered, and a long queue
does nothing but delay all of it: then the limit is ``SUSTAINED_MAX_WAIT`` (as CoDel's, RFC 8289 §3, for a queue that
drops from its head).

Linux tells when the datagram that was read last had arrived (SIOCGSTAMPNS, socket(7)), for the price of one system
call and without control messages.  It is asked for after a full batch only: one that is not full leaves nothing behind
in the buffer.  The first call turns timestamps on; what arrived before counts as new.  Elsewhere nothing is too old.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable

#: In seconds.
MAX_WAIT = 2.0
SUSTAINED_AFTER = 1.0
SUSTAINED_MAX_WAIT = 0.25

#: In <asm-generic/sockios.h>; gives a struct timespec.
_SIOCGSTAMPNS = 0x8907
_TIMESPEC = struct.Struct("@ll")


class ReceiveQueue:
    """
    ``delay`` is how many seconds the last datagram of a full batch had waited, 0.0 if the last batch was not full.

    ``now`` is in seconds since 1970, as are the kernel's timestamps.
    """

    __slots__ = ("_bound", "_busy_since", "_now", "delay")

    def __init__(self, bound: socket.socket, now: Callable[[], float] = time.time) -> None:
        self._bound = bound
        self._now = now
        self._busy_since: float | None = None
        self.delay = 0.0

    def was_emptied(self) -> None:
        """
        Note a batch that was not full.
        """
        self._busy_since = None
        self.delay = 0.0

    def is_too_old(self) -> bool:
        """
        Note a full batch; return whether all of it has waited too long, which it has if its last datagram has.
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
    Return when the datagram that was read last had arrived; ``now`` where the system does not say.
    """
    if sys.platform != "linux":
        return now
    from fcntl import ioctl

    try:
        seconds, nanoseconds = _TIMESPEC.unpack(ioctl(bound, _SIOCGSTAMPNS, bytes(_TIMESPEC.size)))
    except OSError:  # a sandbox that knows no such call
        return now
    return float(seconds + nanoseconds / 1e9)
