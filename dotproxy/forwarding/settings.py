"""
What of the forwarder and the dispatcher a reload changes: the same records for construction and for a reload.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dotproxy.forwarding.client_filter import LimitActions
from dotproxy.forwarding.interfaces import MessageRewriter, UpstreamResponse
from dotproxy.forwarding.query_filter import QueryFilter
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.policy.budget import Budget
from dotproxy.policy.selection import Ordering
from dotproxy.wire.message import QueryInfo


class DispatcherSettings(NamedTuple):
    """
    What of a dispatcher a reload changes: how a reply is parsed, how much is hedged, timeouts in seconds, and to how
    many upstreams a query is sent at once.
    """

    parse_response: Callable[[bytes, QueryInfo, bytes], UpstreamResponse]
    hedging: Budget
    query_timeout: float
    attempt_timeout: float
    at_once: int = 1

    @property
    def longest_attempt(self) -> float:
        """
        After how long a query is sent again: never later than it fails.
        """
        return min(self.attempt_timeout, self.query_timeout)


class ForwarderSettings(NamedTuple):
    """
    What of a forwarder a reload changes.
    """

    ordering: Ordering
    query_filter: QueryFilter
    rewriter: MessageRewriter
    response_builder: ResponseBuilder
    limit_actions: LimitActions = LimitActions()
