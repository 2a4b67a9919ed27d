"""
The settings of the forwarder and the dispatcher: the same records for construction and for a reload.

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
    ``parse_response``: parses a reply; ``hedging``: budget of hedged queries; timeouts in seconds; ``at_once``: the
    number of upstreams a query is first sent to.
    """

    parse_response: Callable[[bytes, QueryInfo, bytes], UpstreamResponse]
    hedging: Budget
    query_timeout: float
    attempt_timeout: float
    at_once: int = 1

    @property
    def longest_attempt(self) -> float:
        """
        The longest time before a query is retried, in seconds: no longer than the query timeout.
        """
        return min(self.attempt_timeout, self.query_timeout)


class ForwarderSettings(NamedTuple):
    """
    ``ordering``: preference among upstreams; ``limit_actions``: responses to clients over their share or not served.
    """

    ordering: Ordering
    query_filter: QueryFilter
    rewriter: MessageRewriter
    response_builder: ResponseBuilder
    limit_actions: LimitActions = LimitActions()
