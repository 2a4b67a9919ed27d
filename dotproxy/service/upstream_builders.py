"""
The upstreams of a proxy, built from a configuration.

Decides how the parts of an upstream are connected: its endpoint, what verifies it, and how an upstream given by name
gets its addresses.  The other parts of a proxy are built by ``builders``.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from twisted.application.service import IService
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IResolver, IStreamClientEndpoint
from twisted.logger import Logger

from dotproxy.config.model import Config
from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.errors import Unreachable
from dotproxy.service.builders import build_forwarder, build_transfers
from dotproxy.service.reactor import IServiceReactor
from dotproxy.telemetry.counters import PlaintextCounters
from dotproxy.telemetry.events import Events
from dotproxy.upstream.bootstrap import Found, NamedEndpoint, PlainAsker, addresses_of
from dotproxy.upstream.happy_eyeballs import RacingEndpoint
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verification import Credentials, ServerVerifier
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint

#: Looks up the addresses of an upstream's name.
Lookup = Callable[[str], Deferred[Found]]

log = Logger("dotproxy")
_randomness = random.SystemRandom()


def build_upstreams(
    config: Config,
    reactor: IServiceReactor,
    events: Events,
    services: list[IService],
    credentials: Credentials,
    among: Sequence[UpstreamAddress] | None = None,
    plaintext: PlaintextCounters | None = None,
) -> list[Upstream]:
    """
    Return the upstreams of ``config``, in its order, verified with ``credentials``; append to ``services`` what has to
    run with them.

    ``among`` are all upstreams of the proxy, if ``config`` has only some of them: those given by address look up the
    names of the others.  ``plaintext`` counts lookups that leave without TLS.
    """

    def build_one(address: UpstreamAddress, lookup: Lookup) -> Upstream:
        return _build_upstream(address, credentials, lookup, config, reactor, events)

    all_upstreams = replace(config, upstream=tuple(config.upstream if among is None else among))
    lookup: Lookup = _no_resolver
    if any(address.host for address in config.upstream):
        lookup = _build_lookup(
            all_upstreams,
            reactor,
            lambda address: build_one(address, _no_resolver),
            services,
            plaintext or PlaintextCounters(),
        )
    return [build_one(address, lookup) for address in config.upstream]


def _build_lookup(
    config: Config,
    reactor: IServiceReactor,
    build_one: Callable[[UpstreamAddress], Upstream],
    services: list[IService],
    plaintext: PlaintextCounters,
) -> Lookup:
    """
    Return a lookup for the names of upstreams; it has upstream connections of its own, dialled when needed.
    """
    over_tls = [server.upstream for server in config.bootstrap if server.upstream]
    if not config.bootstrap:
        over_tls = [address for address in config.upstream if not address.host]
    resolvers: list[IResolver] = []
    if over_tls:
        upstreams = [build_one(address) for address in over_tls]
        services += upstreams
        # The operator has named these upstreams: their names are looked up in any top-level domain.
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


def _no_resolver(name: str) -> Deferred[Found]:
    return fail(Unreachable("resolve", "no resolver is configured for names of upstreams"))


def _build_upstream(
    address: UpstreamAddress,
    credentials: Credentials,
    lookup: Lookup,
    config: Config,
    reactor: IServiceReactor,
    events: Events,
) -> Upstream:
    def make_endpoint(host: str, port: int) -> VerifiedEndpoint:
        verifier = ServerVerifier(
            address=host, name=address.name, pins=address.pins, now=_utc_now, credentials=credentials
        )
        return VerifiedEndpoint(reactor, host, port, verifier, config.connect_timeout)

    endpoint: IStreamClientEndpoint = RacingEndpoint(
        reactor, [make_endpoint(host, port) for host, port in address.addresses]
    )
    if address.host:
        name, port = address.host
        endpoint = NamedEndpoint(
            name, lookup=lookup, make=lambda host: make_endpoint(host, port), clock=reactor, now=time.monotonic
        )
    return Upstream(
        address.label,
        endpoint,
        UpstreamSettings(config.upstream_idle_timeout, address.weight),
        runtime=Runtime(reactor, time.monotonic, os.urandom, _randomness.random),
        events=events,
    )


def _utc_now() -> datetime:
    return datetime.now(UTC)
