"""
What can be said of dotproxy's life, as past-tense events.

Decides the vocabulary.  Whoever tells events calls one of these methods; whoever listens overrides what
it wants to hear.  Nothing here is called once a query.
"""

from __future__ import annotations

from dotproxy.errors import UpstreamError


class Events:
    """
    The listener that does not listen.
    """

    def upstream_connected(
        self, upstream: str, peer: str, tls: str, verified: str, *, resumed: bool, seconds: float
    ) -> None:
        """
        A verified connection came about, ``seconds`` after dialling began.

        ``peer`` is its address, ``tls`` the version spoken, ``verified`` the name or IP address the
        certificate was verified for; ``resumed``: in an earlier handshake, of which this one is the sequel.
        """

    def upstream_went_down(self, upstream: str, error: UpstreamError) -> None:
        """
        It was up, and failed.
        """

    def upstream_came_up(self, upstream: str, seconds: float, failures: int) -> None:
        """
        It was down for ``seconds``, over ``failures`` failures, and works again.
        """

    def connection_closed(self, upstream: str, reason: str, outstanding: int) -> None:
        """
        A connection that had stood ended.
        """
