"""
The parts of a proxy, each made from a configuration.

Decides who is handed what.  Every other module gets its collaborators, the time, the sockets and the randomness as
arguments; here they meet.  How the parts become a service is ``assembly``'s.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2s
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from dotproxy.cache.failures import FailureCache
from dotproxy.cache.responses import ResponseCache
from dotproxy.cache.ttl import Limits
from dotproxy.config.choices import UdpTruncation
from dotproxy.config.model import Config
from dotproxy.config.schema import PRIVATE_NETWORKS
from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.downstream.udp import LimitResponses
from dotproxy.errors import ShedReason, Unreachable
from dotproxy.forwarding.client_filter import LimitActions
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.forwarding.interfaces import MessageRewriter
from dotproxy.forwarding.query_filter import QueryFilter
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.forwarding.settings import DispatcherSettings, ForwarderSettings
from dotproxy.policy.access import AccessList, Network
from dotproxy.policy.budget import Budget
from dotproxy.policy.client_shares import ClientShares, ShareLimits
from dotproxy.policy.response_rate import ResponseRateLimit
from dotproxy.policy.selection import POLICIES, Facts, Ordering, Policy
from dotproxy.policy.special_names import SpecialNames
from dotproxy.service.network_monitor import boottime
from dotproxy.telemetry.counters import Counters, PlaintextCounters
from dotproxy.telemetry.events import Events
from dotproxy.upstream.bootstrap import Found, NamedEndpoint, PlainAsker, addresses_of
from dotproxy.upstream.happy_eyeballs import RacingEndpoint
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verification import Credentials, ServerVerifier
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from dotproxy.upstream.zone_transfer import Transfers
from dotproxy.wire.rewrite import EdnsRewriter, PassthroughRewriter

#: From an upstream's name to its addresses.
Lookup = Callable[[str], Deferred[Found]]

log = Logger("dotproxy")
_randomness = random.SystemRandom()


def build_upstreams(
    config: Config,
    reactor: Any,
    events: Events,
    services: list[IService],
    credentials: Credentials,
    among: Sequence[UpstreamAddress] | None = None,
    plaintext: PlaintextCounters | None = None,
) -> list[Upstream]:
    """
    Return the upstreams of ``config``, in its order, authenticated with ``credentials``; add to ``services`` what has
    to run beside them.

    ``among`` are all the upstreams there will be, if these are not all: they may be asked for the names of others.
    ``plaintext`` counts lookups of their names that leave without TLS.
    """

    def build_one(address: UpstreamAddress, lookup: Lookup) -> Upstream:
        return _build_upstream(address, credentials, lookup, config, reactor, events)

    everybody = replace(config, upstream=tuple(config.upstream if among is None else among))
    lookup: Lookup = _nobody_to_ask
    if any(address.host for address in config.upstream):
        lookup = _build_lookup(
            everybody,
            reactor,
            lambda address: build_one(address, _nobody_to_ask),
            services,
            plaintext or PlaintextCounters(),
        )
    return [build_one(address, lookup) for address in config.upstream]


def _build_lookup(
    config: Config,
    reactor: Any,
    build_one: Callable[[UpstreamAddress], Upstream],
    services: list[IService],
    plaintext: PlaintextCounters,
) -> Lookup:
    """
    Return what looks up the names of upstreams: connections of its own, made when they are needed.
    """
    over_tls = [server.upstream for server in config.bootstrap if server.upstream]
    if not config.bootstrap:
        over_tls = [address for address in config.upstream if not address.host]
    resolvers: list[Any] = []
    if over_tls:
        upstreams = [build_one(address) for address in over_tls]
        services += upstreams
        # The operator has named them, whatever top-level domain they are in.
        config = replace(config, forward_special=(*config.forward_special, "private_tlds"))
        forwarder = build_forwarder(config, reactor, upstreams, build_transfers(config, reactor, upstreams))
        resolvers.append(ForwarderResolver(forwarder, reactor))
    for server in config.bootstrap:
        if server.plain:
            asker = PlainAsker(reactor, *server.plain, os.urandom, plaintext)
            resolvers.append(ForwarderResolver(asker, reactor))
            log.info("names of upstreams are looked up in the clear: {server}", server=str(server))

    async def look_up(name: str) -> Found:
        failures: list[str] = []
        for resolver in resolvers:
            try:
                return await addresses_of(resolver, name)
            except Unreachable as error:
                failures.append(error.reason)
        raise Unreachable("resolve", "; ".join(dict.fromkeys(failures)))

    return lambda name: Deferred.fromCoroutine(look_up(name))


def _nobody_to_ask(name: str) -> Deferred[Found]:
    return fail(Unreachable("resolve", "there is nobody to ask"))


def build_transfers(config: Config, reactor: IReactorTime, upstreams: Sequence[Upstream]) -> Transfers:
    """
    Return what sees to zone transfers from ``upstreams``.
    """
    return Transfers(
        upstreams, rewriter=build_rewriter(config), clock=reactor, random_octets=os.urandom, limit=config.max_transfers
    )


def build_cache(config: Config) -> ResponseCache | None:
    """
    Return an empty cache, or None if there is to be none.
    """
    if not config.cache_size or config.transparent:
        return None
    return ResponseCache(
        entries=config.cache_size,
        octets=config.cache_memory,
        limits=ttl_limits(config),
        stale_for=config.serve_stale,
        prefetches=config.prefetch,
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
    Return a forwarder that asks ``upstreams``.
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
        shares=ClientShares(
            AccessList(config.allow_from).allows, max_in_flight=config.max_outstanding, limits=build_limits(config)
        ),
        failures=failures,
    )


def build_dispatcher_settings(config: Config, upstreams: int) -> DispatcherSettings:
    """
    Return what a dispatcher is told of a configuration with so many upstreams.
    """
    return DispatcherSettings(
        build_rewriter(config).parse_response,
        build_hedging_budget(config),
        config.query_timeout,
        config.attempt_timeout,
        upstreams if config.policy is Policy.RACE else 1,
    )


def build_forwarder_settings(config: Config, upstreams: Sequence[Upstream], places: Sequence[int]) -> ForwarderSettings:
    """
    Return what a forwarder is told of a configuration; ``places`` are the slots of ``upstreams`` in its table.
    """
    rewriter = build_rewriter(config)
    return ForwarderSettings(
        build_ordering(config, upstreams, places),
        build_query_filter(config, rewriter),
        rewriter,
        ResponseBuilder(rewriter, config.udp_max_size),
        build_actions(config),
    )


def build_ordering(config: Config, upstreams: Sequence[Upstream], places: Sequence[int]) -> Ordering:
    """
    Return what says whom to prefer, by the places the upstreams have.
    """
    ordering = POLICIES[config.policy](Facts(upstreams, _randomness.randrange, _hash_key()))
    if tuple(places) == tuple(range(len(upstreams))):
        return ordering
    return lambda query, seen: [places[index] for index in ordering(query, seen)]


def build_query_filter(config: Config, rewriter: MessageRewriter) -> QueryFilter:
    """
    Return what judges queries as they arrive.
    """
    special = SpecialNames(config.forward_special)
    return QueryFilter(special, rewriter, with_minimal_any=config.minimal_any)


def build_limits(config: Config) -> ShareLimits:
    """
    Return what bounds the share of one client.
    """
    return ShareLimits(
        config.client_rate, config.client_prefix_v4, config.client_prefix_v6, tuple(config.client_exempt)
    )


def build_actions(config: Config) -> LimitActions:
    """
    Return what clients get that are over their share, or not served.
    """
    return LimitActions(config.over_limit, config.not_allowed)


def build_response_limit(config: Config, counters: Counters) -> LimitResponses | None:
    """
    Return what limits responses over UDP to addresses that may be forged; None if no such client is served.
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
    Return how much may be asked twice for being slow.
    """
    # Under ``hash`` each name is one upstream's business, slow or not.
    return Budget(config.hedge_percent / 100 if config.policy is not Policy.HASH else 0)


def ttl_limits(config: Config) -> Limits:
    """
    Return what bounds TTLs.
    """
    return Limits(config.cache_min_ttl, config.cache_max_ttl, config.cache_max_negative_ttl)


def _hash_key() -> bytes:
    """
    Return what is the same on this machine tomorrow, and known to nobody else, if there is such a thing.
    """
    try:
        return blake2s(Path("/etc/machine-id").read_bytes(), person=b"dotproxy").digest()
    except OSError:
        return os.urandom(32)


def build_rewriter(config: Config) -> MessageRewriter:
    """
    Return what messages look like on the other side.
    """
    truncates_all = config.udp_truncation is UdpTruncation.EMPTY
    if config.transparent:
        return PassthroughRewriter(config.padding, truncates_all=truncates_all)
    return EdnsRewriter(config.padding, config.client_subnet, truncates_all=truncates_all)


def _build_upstream(
    address: UpstreamAddress,
    credentials: Credentials,
    lookup: Lookup,
    config: Config,
    reactor: Any,
    events: Events,
) -> Upstream:
    def make(host: str, port: int) -> VerifiedEndpoint:
        trust = ServerVerifier(
            address=host, name=address.name, pins=address.pins, now=_utc_now, credentials=credentials
        )
        return VerifiedEndpoint(cast(IReactorTCP, reactor), host, port, trust, config.connect_timeout)

    endpoint: IStreamClientEndpoint = RacingEndpoint(reactor, [make(host, port) for host, port in address.addresses])
    if address.host:
        name, port = address.host
        endpoint = NamedEndpoint(
            name, lookup=lookup, make=lambda host: make(host, port), clock=reactor, now=time.monotonic
        )
    return Upstream(
        address.label,
        endpoint,
        clock=reactor,
        now=time.monotonic,
        random_octets=os.urandom,
        jitter=_randomness.random,
        idle_timeout=config.upstream_idle_timeout,
        events=events,
        weight=address.weight,
    )


def _utc_now() -> datetime:
    return datetime.now(UTC)
