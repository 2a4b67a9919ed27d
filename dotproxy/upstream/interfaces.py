"""
What an upstream tells the forwarder, and what it is told by its connections.

Decides nothing: these are the shapes by which they know each other.
"""

from __future__ import annotations

from typing import Any, Protocol

from dotproxy.errors import UpstreamError
from dotproxy.policy.retry import Isolation
from dotproxy.upstream.connection import Answer, DotConnection, Question, Token


class PoolObserver(Protocol):
    """
    Who a pool reports to: the upstream.
    """

    label: str

    def connected(self, connection: DotConnection, seconds: float) -> None:
        """
        A verified connection stands, after so long a dial, and is the one that takes questions.
        """

    def not_connected(self, error: UpstreamError) -> None:
        """
        A dial failed.
        """

    def replies_received(self, connection: DotConnection, answers: list[Answer], probed_for: float | None) -> None:
        """
        Answers came; ``probed_for``: after so long, over a connection that was under suspicion.
        """

    def lost(self, tokens: list[Token], error: UpstreamError, *, is_unanswered: bool) -> None:
        """
        A connection ended with these outstanding; ``is_unanswered``: nothing was ever answered on it.
        """

    def retired(self, tokens: list[Token], error: UpstreamError, *, was_silent: bool) -> None:
        """
        A connection was given up with these outstanding.
        """

    def limit_changed(self, limit: int | None) -> None:
        """
        So many queries are answered over one connection; None: there is no such rule.
        """

    def has_room(self) -> None:
        """
        A connection takes questions that did not.
        """

    def pool_changed(self) -> None:
        """
        A connection came under suspicion, or is under none any more; or a dial is slow.
        """


class IsolationObserver(Protocol):
    """
    Who is told what became of them: the upstream.
    """

    label: str

    def isolated_connected(self, connection: DotConnection, seconds: float) -> None:
        """
        A verified connection stands, after so long a dial.
        """

    def isolated_not_connected(self, error: UpstreamError) -> bool:
        """
        A dial failed; return whether that is the upstream's failure, so that all that waits fails with it.
        """

    def isolated_replies_received(self, answers: list[Answer]) -> None:
        """
        Replies came; none to a check that was answered.
        """

    def isolated_lost(
        self, questions: list[Question], error: UpstreamError, isolation: Isolation, *, answers: int, is_unusual: bool
    ) -> None:
        """
        A connection ended with these outstanding on it, after so many answers.
        """

    def isolated_check_failed(self, error: UpstreamError) -> None:
        """
        A connection ended, or fell silent, without an answer to anything.
        """

    def isolated_fail(self, tokens: list[Token], error: UpstreamError, *, is_final: bool) -> None:
        """
        These were not sent.
        """

    def is_wanted(self, token: Token) -> bool:
        """
        Whether anybody still waits for the reply.
        """


class UpstreamObserver(Protocol):
    """
    Who is told what became of questions.
    """

    def replies_received(self, upstream: Any, answers: list[Answer]) -> None:
        """
        These were answered, by messages that match their questions.
        """

    def failed(self, upstream: Any, tokens: list[Token], error: UpstreamError, *, is_final: bool) -> None:
        """
        These were not; ``is_final``: asking this upstream again would be no use to them.
        """

    def is_wanted(self, token: Token) -> bool:
        """
        Whether anybody still waits for the answer.
        """
