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

    def dial_failed(self, upstream: str, error: UpstreamError) -> None:
        """
        No connection came about, or none over which anything was answered.
        """

    def question_ended_connection(self, upstream: str, question: bytes) -> None:
        """
        A connection ended on which this question alone was outstanding (``policy.quarantine.question_key``).
        """

    def query_limit_changed(self, upstream: str, limit: int | None) -> None:
        """
        It answers so many queries over one connection; None: there is no such rule.
        """

    def question_failed(self, key: bytes, failure: object) -> None:
        """
        A question could not be answered; ``failure`` is what its clients are told (``cache.failures``).
        """

    def question_recovered(self, key: bytes) -> None:
        """
        A question was answered that had failed before.
        """
