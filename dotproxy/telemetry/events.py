"""
Events of upstreams and their connections.

Decides which events there are.  The code where something happens calls a method; a subclass overrides the methods of
the events it needs.  No event happens once a query.
"""

from __future__ import annotations

from dotproxy.errors import UpstreamError


class Events:
    """
    An observer that ignores every event.
    """

    def upstream_connected(
        self, upstream: str, peer: str, tls: str, verified: str, *, resumed: bool, seconds: float
    ) -> None:
        """
        Note a verified connection, ``seconds`` after the dial began.

        ``peer`` is its address, ``tls`` the TLS version, ``verified`` the name or IP address that the certificate was
        verified for; with ``resumed`` that was in the handshake of the session that is resumed.
        """

    def upstream_went_down(self, upstream: str, error: UpstreamError) -> None:
        """
        Note that an upstream that was up has failed.
        """

    def upstream_came_up(self, upstream: str, seconds: float, failures: int) -> None:
        """
        Note that an upstream works again, after ``seconds`` and ``failures`` failed attempts.
        """

    def connection_closed(self, upstream: str, reason: str, outstanding: int) -> None:
        """
        Note the end of a verified connection, with the number of ``outstanding`` queries.
        """

    def dial_failed(self, upstream: str, error: UpstreamError) -> None:
        """
        Note a dial that failed, or a connection that ended before any response.
        """

    def question_ended_connection(self, upstream: str, question: bytes) -> None:
        """
        Note a connection that ended with one outstanding query; ``question`` is its ``policy.quarantine.question_key``.
        """

    def query_limit_changed(self, upstream: str, limit: int | None) -> None:
        """
        Note the number of queries after which an upstream closes a connection; None if there is no such limit.
        """

    def question_failed(self, key: bytes, failure: object) -> None:
        """
        Note a question that could not be answered; ``failure`` is what the failure cache keeps (``cache.failures``).
        """

    def question_recovered(self, key: bytes) -> None:
        """
        Note a response to a question that had failed before.
        """
