"""
The parts of a proxy other than its upstreams, each built from a configuration.

Decides which setting becomes which argument.  Clocks, randomness and sockets are handed to each part here, so that no
part reads them by itself.  How the parts become a service is ``assembly``'s; upstreams are ``upstream_builders``'s.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from hashlib import blake2s
from ipaddress import ip_network
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from dotproxy.cache.failures import FailureCache
from dotproxy.cache.responses import CacheSettings, ResponseCache
from dotproxy.cache.ttl import Limits
from dotproxy.config.choices import QueryLogMode, UdpTruncation
from dotproxy.config.model import Config
from dotproxy.config.schema import PRIVATE_NETWORKS
from dotproxy.downstream.udp import LimitResponses
from dotproxy.errors import ShedReason
from dotproxy.forwarding.client_filter import LimitActions
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.forwarding.interfaces import MessageRewriter
from dotproxy.forwarding.query_filter import QueryFilter
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.forwarding.settings import DispatcherSettings, ForwarderSettings
from dotproxy.policy.access import AccessList, Network
from dotproxy.policy.budget import Budget
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.response_rate import ResponseRateLimit
from dotproxy.policy.selection import ORDERINGS, Ordering, OrderingInputs, Policy
from dotproxy.policy.server_cookies import ServerCookies
from dotproxy.policy.share_settings import ShareLimits, ShareSettings
from dotproxy.policy.special_names import SpecialNames
from dotproxy.service.cache_file import CacheFile
from dotproxy.service.cache_file_format import MAX_RECORD
from dotproxy.service.network_monitor import boottime
from dotproxy.service.proxy import ProxySettings
from dotproxy.telemetry.counters import Counters
from dotproxy.telemetry.querylog import QueryLog
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.zone_transfer import Transfers, TransferSettings
from dotproxy.wire.rewrite import EdnsRewriter, PassthroughRewriter

_randomness = random.SystemRandom()


def build_transfers(config: Config, reactor: IReactorTime, upstreams: Sequence[Upstream]) -> Transfers:
    """
    Return what runs zone transfers from ``upstreams``.
    """
    return Transfers(build_transfer_settings(config, upstreams), clock=reactor, random_octets=os.urandom)


def build_transfer_settings(config: Config, upstreams: Sequence[Upstream]) -> TransferSettings:
    """
    Return the settings of zone transfers, at construction and after a reload.
    """
    return TransferSettings(tuple(upstreams), build_rewriter(config), config.max_transfers)


def build_cache(config: Config) -> ResponseCache | None:
    """
    Return an empty cache; None if ``cache_size`` is 0 or the proxy is transparent.
    """
    if not config.cache_size or config.transparent:
        return None
    return ResponseCache(build_cache_settings(config), entries=config.cache_size, octets=config.cache_memory)


def build_cache_settings(config: Config) -> CacheSettings:
    """
    Return the settings of the cache, at construction and after a reload.
    """
    limits = Limits(config.cache_min_ttl, config.cache_max_ttl, config.cache_max_negative_ttl)
    return CacheSettings(limits, config.serve_stale, config.prefetch)


def build_cache_file(cache: ResponseCache, path: Path, config: Config, reactor: IReactorTime) -> CacheFile:
    """
    Return what loads the cache from ``path`` and saves it there.
    """
    return CacheFile(
        cache,
        path,
        # A record in the file is no larger than what cache_memory counts for it.
        limit=min(config.cache_memory, config.cache_size * MAX_RECORD),
        clock=reactor,
        boottime=boottime,
        wall_time=time.time,
        in_thread=deferToThread,
    )


def build_forwarder(
    config: Config,
    reactor: IReactorTime,
    upstreams: Sequence[Upstream],
    transfers: Transfers,
    cache: ResponseCache | None = None,
    failures: FailureCache | None = None,
) -> Forwarder:
    """
    Return a forwarder that sends queries to ``upstreams``.
    """
    dispatcher = Dispatcher(
        upstreams, build_dispatcher_settings(config, len(upstreams)), clock=reactor, monotonic=time.monotonic
    )
    return Forwarder(
        dispatcher,
        build_forwarder_settings(config, upstreams, range(len(upstreams))),
        transfers=transfers,
        cache=cache,
        clock=reactor,
        monotonic=time.monotonic,
        boottime=boottime,
        wall_time=time.time,
        shares=ClientShares(build_share_settings(config)),
        failures=failures,
    )


def build_dispatcher_settings(config: Config, upstreams: int) -> DispatcherSettings:
    """
    Return the settings of a dispatcher with so many upstreams.
    """
    return DispatcherSettings(
        build_rewriter(config).parse_response,
        build_hedging_budget(config),
        config.query_timeout,
        config.attempt_timeout,
        upstreams if config.policy is Policy.RACE else 1,
    )


def build_forwarder_settings(config: Config, upstreams: Sequence[Upstream], slots: Sequence[int]) -> ForwarderSettings:
    """
    Return the settings of a forwarder; ``slots`` are those of ``upstreams`` in its upstream table.
    """
    rewriter = build_rewriter(config)
    return ForwarderSettings(
        build_ordering(config, upstreams, slots),
        build_query_filter(config, rewriter),
        rewriter,
        ResponseBuilder(rewriter, config.udp_max_size),
        build_actions(config),
    )


def build_proxy_settings(config: Config, counters: Counters, secret: bytes) -> ProxySettings:
    """
    Return the settings of a proxy's listeners; ``secret`` keys server cookies (RFC 7873).
    """
    balancers = config.proxy_protocol_from
    return ProxySettings(
        tcp_idle_timeout=config.tcp_idle_timeout,
        tcp_max_connections=config.tcp_max_connections,
        tcp_max_outstanding=config.tcp_max_outstanding,
        limit_responses=build_response_limit(config, counters),
        cookie_for=ServerCookies(secret).option_for if config.udp_cookies and not config.transparent else None,
        is_balancer=AccessList(balancers).allows if balancers else None,
        is_batched=config.udp_batched,
        tells_idle_timeout=not config.transparent,
    )


def build_ordering(config: Config, upstreams: Sequence[Upstream], slots: Sequence[int]) -> Ordering:
    """
    Return the policy that orders upstreams by preference, as slots of the upstream table.
    """
    ordering = ORDERINGS[config.policy](OrderingInputs(upstreams, _randomness.randrange, _hash_key()))
    if tuple(slots) == tuple(range(len(upstreams))):
        return ordering
    return lambda query, info: [slots[index] for index in ordering(query, info)]


def build_query_filter(config: Config, rewriter: MessageRewriter) -> QueryFilter:
    """
    Return the filter that queries pass on arrival.
    """
    special = SpecialNames(config.forward_special)
    return QueryFilter(special, rewriter, with_minimal_any=config.minimal_any)


def build_share_settings(config: Config) -> ShareSettings:
    """
    Return the settings of client shares, at construction and after a reload.
    """
    limits = ShareLimits(
        config.client_rate, config.client_prefix_v4, config.client_prefix_v6, tuple(config.client_exempt)
    )
    return ShareSettings(AccessList(config.allow_from).allows, config.max_outstanding, limits)


def build_actions(config: Config) -> LimitActions:
    """
    Return what happens to queries of clients over their limit, and of clients that are not allowed.
    """
    return LimitActions(config.over_limit, config.not_allowed)


def build_response_limit(config: Config, counters: Counters) -> LimitResponses | None:
    """
    Return the rate limit of UDP responses to addresses that may be forged; None if every client is in a private
    network or exempt, or the limit is 0.
    """
    safe = (*map(ip_network, PRIVATE_NETWORKS), *config.client_exempt)
    if not config.response_rate_limit or all(_is_within(network, safe) for network in config.allow_from):
        return None

    def shed() -> None:
        counters.shed[ShedReason.RESPONSE_RATE] += 1

    limit = ResponseRateLimit(config.response_rate_limit, config.response_rate_slip, AccessList(safe).allows, shed)
    return lambda responses: limit.apply(responses, time.monotonic())


def _is_within(network: Network, others: Sequence[Network]) -> bool:
    return any(network.version == other.version and network.subnet_of(other) for other in others)  # type: ignore[arg-type]


def build_hedging_budget(config: Config) -> Budget:
    """
    Return the budget of hedged queries: ``hedge_percent`` of all, none under the policy ``hash``.
    """
    # Under ``hash`` a name is sent to one upstream only, slow or not.
    return Budget(config.hedge_percent / 100 if config.policy is not Policy.HASH else 0)


def build_query_log(config: Config, secret: bytes) -> QueryLog | None:
    """
    Return the query log; None if it is off.  ``secret`` keys hashed names.
    """
    if config.query_log is QueryLogMode.OFF:
        return None
    is_clear = config.query_log is QueryLogMode.CLEAR
    # Derived from the cookies' secret, but another key: cookies go to clients, hashed names to readers of the log.
    key = blake2s(secret, person=b"queries").digest()
    queries = QueryLog(is_clear=is_clear, sample=config.query_log_sample, key=key, chance=random.random)
    queries.announce()
    return queries


def _hash_key() -> bytes:
    """
    Return a secret that is the same after a restart of this machine (machine-id(5)); a random one without such a file.
    """
    try:
        return blake2s(Path("/etc/machine-id").read_bytes(), person=b"dotproxy").digest()
    except OSError:
        return os.urandom(32)


def build_rewriter(config: Config) -> MessageRewriter:
    """
    Return what rewrites queries for upstreams, and responses for clients.
    """
    truncates_all = config.udp_truncation is UdpTruncation.EMPTY
    if config.transparent:
        return PassthroughRewriter(config.padding, truncates_all=truncates_all)
    return EdnsRewriter(config.padding, config.client_subnet, truncates_all=truncates_all)
