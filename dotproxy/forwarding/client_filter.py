"""
Whether a query is looked at: is its client served, and within its share.

Decides what a client is told that is not, or is over its share; how large that is, ``client_shares`` says.  Refuses to
know what a query asks.
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

#: UDP source ports of services that answer whatever they get, with which a forged query would begin a loop: echo,
#: daytime, chargen, time, kpasswd; and 0, which nobody can be answered at.
NEVER_ANSWERED: Final = frozenset((0, 7, 13, 19, 37, 464))

# Without a text: whoever asked may not be who it seems, and should not get more than was sent.
_NOT_SERVED: Final = ExtendedError(EDE_PROHIBITED, "")
_OVER_RATE: Final = ExtendedError(EDE_OTHER, "over the rate of queries for one client")
_OVER_SHARE: Final = ExtendedError(EDE_OTHER, "too many queries of this client outstanding")
_OVERLOADED: Final = ExtendedError(EDE_OTHER, "too many queries outstanding")


class LimitActions(NamedTuple):
    """
    ``over_limit``: for a client that is over its share; ``not_allowed``: for one that is not served.
    """

    over_limit: LimitAction = LimitAction.TRUNCATE
    not_allowed: LimitAction = LimitAction.REFUSE


class ClientFilter:
    """
    Counts what it turns away in ``counters.shed``.
    """

    def __init__(self, shares: ClientShares, counters: Counters, actions: LimitActions) -> None:
        self._shares = shares
        self._counters = counters
        self.actions = actions

    def check(self, listener: Listener, octets: bytes, client: Client, now: float) -> ClientShare | bytes | None:
        """
        Return the share of a client that may send a query, which then counts; or what it gets: octets, or None for
        silence.  To be called if its share is not known or has no credit, or its port is one of ``NEVER_ANSWERED``.
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
            share.credit -= 1  # a stream is read no faster than it is answered: it has no rate
        elif share.credit > 0:
            share.credit -= 1
        elif not shares.may_send(share, now):
            return self._over_rate(octets, now)
        return share

    def no_place(self, request: ClientRequest) -> bytes:
        """
        Return what a client gets whose query cannot be in flight, b"" for nothing.
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
