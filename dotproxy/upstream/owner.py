"""
What a pool of connections tells the upstream that owns it.

Decides nothing: this is the shape by which they know each other.
"""

from __future__ import annotations

from typing import Protocol

from dotproxy.errors import UpstreamError
from dotproxy.upstream.protocol import Answer, DotProtocol, Token


class Owner(Protocol):
    """
    Who a pool reports to: the upstream.
    """

    label: str

    def connected(self, connection: DotProtocol, seconds: float) -> None:
        """
        A verified connection stands, after so long a dial, and is the one that takes questions.
        """

    def not_connected(self, error: UpstreamError) -> None:
        """
        A dial failed.
        """

    def answered(self, connection: DotProtocol, answers: list[Answer], probed_for: float | None) -> None:
        """
        Answers came; ``probed_for``: after so long, over a connection that was under suspicion.
        """

    def lost(self, tokens: list[Token], error: UpstreamError, *, is_failure: bool) -> None:
        """
        A connection ended with these outstanding; it is a failure of the upstream if it never answered.
        """

    def retired(self, tokens: list[Token], error: UpstreamError, *, was_silent: bool) -> None:
        """
        A connection was given up with these outstanding.
        """

    def has_room(self) -> None:
        """
        A connection takes questions that did not.
        """

    def pool_changed(self) -> None:
        """
        A connection came under suspicion, or is under none any more; or a dial is slow.
        """
