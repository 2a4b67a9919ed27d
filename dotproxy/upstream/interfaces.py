"""
Interfaces between an upstream, its pools of connections, and the dispatcher.

Decides nothing.
"""

from __future__ import annotations

from typing import Protocol

from dotproxy.errors import UpstreamError
from dotproxy.forwarding.interfaces import Upstream
from dotproxy.policy.retry import Isolation
from dotproxy.upstream.connection import DotConnection, OutgoingQuery, Reply, Token


class PoolObserver(Protocol):
    """
    What a pool reports to: the upstream.
    """

    label: str

    def connected(self, connection: DotConnection, seconds: float) -> None:
        """
        A connection is verified, after a dial of so many seconds; it may take queries.
        """

    def not_connected(self, error: UpstreamError) -> None:
        """
        A dial failed.
        """

    def replies_received(self, connection: DotConnection, answers: list[Reply], probed_for: float | None) -> None:
        """
        Replies came; ``probed_for``: the seconds since the probe, over a connection that was suspect.
        """

    def lost(self, tokens: list[Token], error: UpstreamError, *, is_unanswered: bool) -> None:
        """
        A connection ended with these queries outstanding; ``is_unanswered``: it never received a reply.
        """

    def retired(self, tokens: list[Token], error: UpstreamError, *, was_silent: bool) -> None:
        """
        A connection was retired with these queries outstanding; ``was_silent``: for receiving nothing.
        """

    def limit_changed(self, limit: int | None) -> None:
        """
        The upstream answers so many queries over one connection; None: there is no such limit.
        """

    def has_room(self) -> None:
        """
        A connection takes queries again.
        """

    def pool_changed(self) -> None:
        """
        A connection became suspect or ready, or a dial became slow.
        """


class IsolationObserver(Protocol):
    """
    What isolated connections report to: the risky queries of an upstream.
    """

    label: str

    def isolated_connected(self, connection: DotConnection, seconds: float) -> None:
        """
        A connection is verified, after a dial of so many seconds.
        """

    def isolated_not_connected(self, error: UpstreamError) -> bool:
        """
        A dial failed; return whether the upstream failed, so that all waiting queries fail.
        """

    def isolated_replies_received(self, answers: list[Reply]) -> None:
        """
        Replies came; an empty list for a reply to a probe.
        """

    def isolated_lost(
        self,
        queries: list[OutgoingQuery],
        error: UpstreamError,
        isolation: Isolation,
        *,
        answers: int,
        is_unusual: bool,
    ) -> None:
        """
        A connection ended with these queries outstanding, after so many replies.
        """

    def isolated_check_failed(self, error: UpstreamError) -> None:
        """
        A connection ended, or stayed silent, without a reply.
        """

    def isolated_fail(self, tokens: list[Token], error: UpstreamError, *, is_final: bool) -> None:
        """
        These queries were not sent.
        """

    def is_wanted(self, token: Token) -> bool:
        """
        Return whether the query still waits for its reply.
        """


class UpstreamObserver(Protocol):
    """
    What an upstream reports to: the dispatcher.
    """

    def replies_received(self, upstream: Upstream, answers: list[Reply]) -> None:
        """
        Replies came that match their queries.
        """

    def failed(self, upstream: Upstream, tokens: list[Token], error: UpstreamError, *, is_final: bool) -> None:
        """
        These queries failed; ``is_final``: they must not be sent to this upstream again.
        """

    def is_wanted(self, token: Token) -> bool:
        """
        Return whether the query still waits for its reply.
        """
