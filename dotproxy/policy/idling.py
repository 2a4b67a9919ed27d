"""
When an idle connection is closed: a little before its server would.

Decides a time from what was configured and from when the server closed connections that nobody used.  One that is
closed by us costs nothing; one that the server closes may meet a question on its way.
"""

from __future__ import annotations

#: Of the time after which a server closes, so much is used.
_SHARE = 0.9

#: What was learned is forgotten bit by bit, so that a server that has become more patient is noticed.
_FORGETTING = 1.02

#: What ends sooner than this was not ended for being idle, in seconds.
_NOT_IDLE = 0.2


class IdleLimit:
    """
    For one upstream; ``configured`` is the most, in seconds.
    """

    __slots__ = ("_configured", "_learned")

    def __init__(self, configured: float) -> None:
        self._configured = configured
        self._learned = configured

    def timeout(self) -> float:
        """
        Return how long the next connection may be idle.
        """
        timeout = self._learned
        self._learned = min(self._configured, self._learned * _FORGETTING)
        return timeout

    def closed_by_peer(self, idle: float) -> None:
        """
        The server closed a connection that had been idle for so long.
        """
        if idle >= _NOT_IDLE:
            self._learned = min(self._configured, idle * _SHARE)
