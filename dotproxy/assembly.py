"""
The only constructor of everything: a configuration in, a service out.

Decides who is handed what.  Every other module gets its collaborators, the time, the sockets and the
randomness as arguments; here they meet.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2s
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IStreamClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from dotproxy import __version__
from dotproxy.asking import Asking
from dotproxy.config.schema import Config
from dotproxy.downstream.batch import BatchPort
from dotproxy.downstream.datagram import DatagramListener
from dotproxy.downstream.factory import ListenerFactory
from dotproxy.downstream.sockets import CannotBind, bind_both
from dotproxy.errors import Unreachable
from dotproxy.forwarder import Forwarder
from dotproxy.neighbours import Hop
from dotproxy.network import NetworkWatch, clock_with_sleep
from dotproxy.policy.admission import Admission
from dotproxy.policy.answers import AnswerCache
from dotproxy.policy.budget import Budget
from dotproxy.policy.cookies import Cookies
from dotproxy.policy.freshness import Limits
from dotproxy.policy.selection import POLICIES, Facts
from dotproxy.policy.special import SpecialNames
from dotproxy.reception import Reception
from dotproxy.resolver import ForwarderResolver
from dotproxy.snapshot import Snapshot
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.upstream.address import UpstreamAddress, endpoint_text
from dotproxy.upstream.bootstrap import Found, NamedEndpoint, PlainAsker, addresses_of
from dotproxy.upstream.dial import RacingEndpoint
from dotproxy.upstream.exchange import Upstream
from dotproxy.upstream.gate import VerifiedEndpoint
from dotproxy.upstream.transfer import Transfers
from dotproxy.upstream.trust import TlsChoices, Trust
from dotproxy.wire.hop import Rebuilt, Subnet, Verbatim

#: How long outstanding queries are waited for when the proxy stops, in seconds.
DRAIN = 2.0

#: From an upstream's name to its addresses.
Lookup = Callable[[str], Deferred[Found]]

log = Logger("dotproxy")
_randomness = random.SystemRandom()


def build(config: Config, reactor: Any, events: Events | None = None) -> Proxy:
    """
    Return the proxy that ``config`` describes, not started.
    """
    services: list[IService] = []
    upstreams = build_upstreams(config, reactor, events or LoggedEvents(debug=config.log_level == "debug"), services)
    transfers = build_transfers(config, reactor, upstreams)
    cache = build_cache(config)
    forwarder = build_forwarder(config, reactor, upstreams, transfers, cache)
    if cache is not None and config.cache_file is not None:
        given = {"clock": reactor, "elapsed": clock_with_sleep, "date": time.time, "in_thread": deferToThread}
        services.append(Snapshot(cache, config.cache_file, **given))
    hosts = [[host for host, _ in address.addresses] for address in config.upstream]
    reached = list(zip(upstreams, hosts, strict=True))
    watch = NetworkWatch(reached, moved=forwarder.network_moved, reactor=reactor, now=time.monotonic)
    return Proxy(config, reactor, [watch, *services, *upstreams, transfers], forwarder)


def build_upstreams(config: Config, reactor: Any, events: Events, services: list[IService]) -> list[Upstream]:
    """
    Return the upstreams of ``config``, in its order; add to ``services`` what has to run beside them.
    """
    ca = config.ca_file.read_bytes() if config.ca_file else None
    tls = TlsChoices(
        config.tls_minimum,
        config.tls_ciphers or "",
        config.client_certificate.read_bytes() if config.client_certificate else None,
        config.client_key.read_bytes() if config.client_key else None,
    )

    def build_one(address: UpstreamAddress, lookup: Lookup) -> Upstream:
        return _build_upstream(address, ca, tls, lookup, config, reactor, events)

    lookup = _build_lookup(config, reactor, lambda address: build_one(address, _nobody_to_ask), services)
    return [build_one(address, lookup) for address in config.upstream]


def _build_lookup(
    config: Config, reactor: Any, build_one: Callable[[UpstreamAddress], Upstream], services: list[IService]
) -> Lookup:
    """
    Return what looks up the names of upstreams: connections of its own, made when they are needed.
    """
    if not any(address.host for address in config.upstream):
        return _nobody_to_ask
    over_tls = [server.upstream for server in config.bootstrap if server.upstream]
    if not config.bootstrap:
        over_tls = [address for address in config.upstream if not address.host]
    resolvers: list[Any] = []
    if over_tls:
        upstreams = [build_one(address) for address in over_tls]
        services += upstreams
        forwarder = build_forwarder(config, reactor, upstreams, build_transfers(config, reactor, upstreams))
        resolvers.append(ForwarderResolver(forwarder, reactor))
    for server in config.bootstrap:
        if server.plain:
            asker = PlainAsker(reactor, *server.plain, os.urandom)
            resolvers.append(ForwarderResolver(asker, reactor))
            log.info("names of upstreams are looked up in the clear: {server}", server=str(server))

    async def look_up(name: str) -> Found:
        failures: list[str] = []
        for resolver in resolvers:
            try:
                return await addresses_of(resolver, name)
            except Unreachable as error:
                failures.append(error.reason)
        raise Unreachable("resolve", "; ".join(failures))

    return lambda name: Deferred.fromCoroutine(look_up(name))


def _nobody_to_ask(name: str) -> Deferred[Found]:
    return fail(Unreachable("resolve", "there is nobody to ask"))


def build_transfers(config: Config, reactor: IReactorTime, upstreams: Sequence[Upstream]) -> Transfers:
    """
    Return what sees to zone transfers from ``upstreams``.
    """
    return Transfers(
        upstreams, hop=_build_hop(config), clock=reactor, random_octets=os.urandom, limit=config.max_transfers
    )


def build_cache(config: Config) -> AnswerCache | None:
    """
    Return an empty cache, or None if there is to be none.
    """
    if not config.cache_size or config.transparent:
        return None
    return AnswerCache(
        entries=config.cache_size,
        octets=config.cache_memory,
        limits=Limits(config.cache_min_ttl, config.cache_max_ttl, config.cache_max_negative_ttl),
        stale_for=config.serve_stale,
        prefetches=config.prefetch,
    )


def build_forwarder(
    config: Config,
    reactor: IReactorTime,
    upstreams: Sequence[Upstream],
    transfers: Transfers,
    cache: AnswerCache | None = None,
) -> Forwarder:
    """
    Return a forwarder that asks ``upstreams``.
    """
    hop = _build_hop(config)
    special = SpecialNames(config.forward_special)
    asking = Asking(
        upstreams,
        read=hop.read,
        at_once=len(upstreams) if config.policy == "race" else 1,
        # Under ``hash`` each name is one upstream's business, slow or not.
        hedging=Budget(config.hedge_percent / 100 if config.policy != "hash" else 0),
        clock=reactor,
        now=time.monotonic,
        query_timeout=config.query_timeout,
        attempt_timeout=config.attempt_timeout,
    )
    return Forwarder(
        asking,
        ordering=POLICIES[config.policy](Facts(upstreams, _randomness.randrange, _hash_key())),
        reception=Reception(Admission(config.allow_from), special, hop, with_minimal_any=config.minimal_any),
        hop=hop,
        transfers=transfers,
        cache=cache,
        clock=reactor,
        now=time.monotonic,
        elapsed=clock_with_sleep,
        date=time.time,
        udp_max_size=config.udp_max_size,
        max_outstanding=config.max_outstanding,
    )


def _hash_key() -> bytes:
    """
    Return what is the same on this machine tomorrow, and known to nobody else, if there is such a thing.
    """
    try:
        return blake2s(Path("/etc/machine-id").read_bytes(), person=b"dotproxy").digest()
    except OSError:
        return os.urandom(32)


def _build_hop(config: Config) -> Hop:
    return Verbatim() if config.transparent else Rebuilt(config.padding, Subnet(config.client_subnet))


def _build_upstream(
    address: UpstreamAddress,
    ca: bytes | None,
    tls: TlsChoices,
    lookup: Lookup,
    config: Config,
    reactor: Any,
    events: Events,
) -> Upstream:
    def make(host: str, port: int) -> VerifiedEndpoint:
        trust = Trust(address=host, name=address.name, pins=address.pins, ca=ca, now=_utc_now, tls=tls)
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


class Proxy(MultiService):
    """
    The running proxy: listeners, forwarder, upstreams.

    ``privilegedStartService`` binds, so that root can be given up before ``startService`` serves.
    ``addresses`` holds where it listens, once it does.
    """

    def __init__(self, config: Config, reactor: Any, services: Sequence[IService], forwarder: Forwarder) -> None:
        super().__init__()
        self._config = config
        self._reactor = reactor
        self._forwarder = forwarder
        self._factory = ListenerFactory(
            forwarder,
            ForwarderResolver(forwarder, reactor),
            clock=reactor,
            now=time.monotonic,
            idle_timeout=config.tcp_idle_timeout,
            max_connections=config.tcp_max_connections,
            max_outstanding=config.tcp_max_outstanding,
            tells_idle_timeout=not config.transparent,
        )
        self._bound: list[tuple[Any, Any]] = []
        self._datagram_ports: list[BatchPort] = []
        self._stream_ports: list[Any] = []
        self._cookie_for = Cookies(os.urandom(32)).option_for if config.udp_cookies and not config.transparent else None
        for service in services:
            service.setServiceParent(self)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """
        The address and port of each listener.
        """
        return [datagrams.getsockname()[:2] for datagrams, _ in self._bound]

    def privilegedStartService(self) -> None:
        """
        Bind every listener, or none.

        :raises CannotBind: naming every one that could not be.
        """
        super().privilegedStartService()
        problems: list[str] = []
        for address in self._config.listen:
            try:
                self._bound.append(bind_both(address.host, address.port))
            except CannotBind as problem:
                problems.append(str(problem))
        if problems:
            for sockets in self._bound:
                for bound in sockets:
                    bound.close()
            raise CannotBind("\n".join(problems))

    def startService(self) -> None:
        """
        Serve.
        """
        if not self._bound:  # started by something that knows no privileges, as `twist` or a test
            self.privilegedStartService()
        super().startService()
        log.info("dotproxy {version}", version=__version__)
        for datagrams, streams in self._bound:
            self._listen(datagrams, streams)
        self._log_upstreams()
        log.info("ready")

    def stopService(self) -> Deferred[None]:
        """
        Take no more questions, answer those there are, for a bounded time; then end everything.
        """
        return Deferred.fromCoroutine(self._stop())

    def _listen(self, datagrams: Any, streams: Any) -> None:
        listener = DatagramListener(self._factory, self._reactor, self._cookie_for)
        port = BatchPort(datagrams, listener, self._reactor)
        port.startListening()
        self._datagram_ports.append(port)
        self._stream_ports.append(self._reactor.adoptStreamPort(streams.fileno(), streams.family, self._factory))
        streams.close()
        log.info("listening on {address} (UDP, TCP)", address=endpoint_text(*datagrams.getsockname()[:2]))

    def _log_upstreams(self) -> None:
        roots = f"the CAs in {self._config.ca_file}" if self._config.ca_file else "the system's CAs"
        for address in self._config.upstream:
            wanted = f"name {address.name}" if address.name else f"IP address {address.addresses[0][0]}"
            pins = f" and {len(address.pins)} pins" if address.pins else ""
            log.info(
                "upstream {label}: strict, {wanted} verified against {roots}{pins}",
                label=address.label,
                wanted=wanted,
                roots=roots,
                pins=pins,
            )

    async def _stop(self) -> None:
        for port in self._stream_ports:
            await maybeDeferred(port.stopListening)
        for port in self._datagram_ports:
            port.stopReading()
        limit = self._reactor.callLater(DRAIN, self._forwarder.stop)
        await self._forwarder.drain()
        if limit.active():
            limit.cancel()
        self._forwarder.stop()
        for port in self._datagram_ports:
            await maybeDeferred(port.stopListening)
        for connection in tuple(self._factory.connections):
            connection.close()
        await super().stopService()
        self._bound.clear()
        log.info("stopped")
