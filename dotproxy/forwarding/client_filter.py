"""
Whether a query is processed: its client has to be served, and within its share.

Decides what other clients get: a refusal, a truncated response, or nothing.  ``policy.client_shares`` decides how large
a share is.  Refuses to know the question.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dotproxy.errors import ShedReason, WireError
from dotproxy.forwarding.inflight import ClientRequest
from dotproxy.forwarding.interfaces import Listener
from dotproxy.policy.access import LimitAction
from dotproxy.policy.client import Client
from dotproxy.policy.client_shares import ClientShare, ClientShares
from dotproxy.telemetry.counters import Counters
from dotproxy.wire.edns import EDE_OTHER, EDE_PROHIBITED, ExtendedError
from dotproxy.wire.message import REFUSED, SERVFAIL, parse_query
from dotproxy.wire.responses import ask_over_tcp, refusal

#: UDP source ports of services that respond to any datagram, with which a forged query would start a loop: echo,
#: daytime, chargen, time, kpasswd; and 0, to which no datagram can be sent.
NEVER_ANSWERED: Final = frozenset((0, 7, 13, 19, 37, 464))

# Without text: the source address may be forged, and the response should be no longer than the query.
_NOT_SERVED: Final = ExtendedError(EDE_PROHIBITED, "")
_OVER_RATE: Final = ExtendedError(EDE_OTHER, "over the rate of queries for one client")
_OVER_SHARE: Final = ExtendedError(EDE_OTHER, "too many queries of this client outstanding")
_OVERLOADED: Final = ExtendedError(EDE_OTHER, "too many queries outstanding")


class LimitActions(NamedTuple):
    """
    What a client gets that is over its share (``over_limit``), and one that is not served (``not_allowed``).
    """

    over_limit: LimitAction = LimitAction.TRUNCATE
    not_allowed: LimitAction = LimitAction.REFUSE


class ClientFilter:
    """
    Counts dropped and refused queries in ``counters.shed``.
    """

    def __init__(self, shares: ClientShares, counters: Counters, actions: LimitActions) -> None:
        self._shares = shares
        self._counters = counters
        self.actions = actions

    def check(self, listener: Listener, octets: bytes, client: Client, now: float) -> ClientShare | bytes | None:
        """
        Charge a query to its client's share and return the share; otherwise return a response in wire form, or None for
        no response.  To be called if the share is unknown or has no credit, or the port is in ``NEVER_ANSWERED``.
        """
        shares = self._shares
        host = client.host
        is_stream = listener.is_stream
        if client.port in NEVER_ANSWERED and not is_stream and host:
            self._counters.shed[ShedReason.SOURCE_PORT] += 1
            return None
        share = shares.by_host.get(host)
        if share is None:
            if not is_stream and not shares.may_admit_unknown(host, now):
                return self._over_rate(octets, now)
            share = shares.share_of(host, now)
        if not share.is_served:
            return self._not_served(octets, now)
        if is_stream:
            shares.verify(share)
            share.credit -= 1  # a stream has no rate: it is read no faster than its responses are sent
        elif share.credit > 0:
            share.credit -= 1
        elif not shares.may_send(share, now):
            return self._over_rate(octets, now)
        return share

    def no_place(self, request: ClientRequest) -> bytes:
        """
        Return the response to a query that there is no place in flight for, b"" for none.
        """
        _, _, octets, info, account = request
        is_stream = request.listener.is_stream
        if self._shares.is_table_full(account, len(octets)):
            self._counters.overload_refusals += 1
            return refusal(octets, SERVFAIL, info, _OVERLOADED)
        self._counters.shed[ShedReason.IN_FLIGHT] += 1
        action = self.actions.over_limit
        if action is LimitAction.TRUNCATE and not is_stream:
            return ask_over_tcp(octets, info)
        if action is LimitAction.DROP and not is_stream:
            return b""
        return refusal(octets, REFUSED if action is LimitAction.REFUSE else SERVFAIL, info, _OVER_SHARE)

    def _not_served(self, octets: bytes, now: float) -> bytes | None:
        if self.actions.not_allowed is LimitAction.DROP or now < self._shares.overloaded_until:
            self._counters.shed[ShedReason.NOT_ALLOWED] += 1
            return None
        try:
            info = parse_query(octets)
        except WireError:
            return None
        return refusal(octets, REFUSED, info, _NOT_SERVED)

    def _over_rate(self, octets: bytes, now: float) -> bytes | None:
        self._counters.shed[ShedReason.RATE] += 1
        action = self.actions.over_limit
        if action is LimitAction.DROP or not self._shares.may_respond_to_shed(now):
            return None
        try:
            info = parse_query(octets)
        except WireError:
            return None
        if action is LimitAction.TRUNCATE:
            return ask_over_tcp(octets, info)
        return refusal(octets, REFUSED, info, _OVER_RATE)
