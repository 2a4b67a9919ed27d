"""
The running proxy, as a service: listeners in front, a forwarder behind.

Decides the order in which things begin and end: root's part first; on the way out listeners first, then what is
outstanding, then the rest.  What is built how is ``assembly``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger, LogLevel

from dotproxy import __version__
from dotproxy.config.fallback import without_fallbacks
from dotproxy.config.load import Loaded
from dotproxy.config.model import Config
from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.downstream.proxy_protocol import ProxiedUdpListener, proxied_tcp_factory, proxied_tls_factory
from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.sockets import bind_with_tls, has_address
from dotproxy.downstream.tcp_port import TcpPort
from dotproxy.downstream.tls_listener import TlsConnectionFactory, TlsListenerFactory
from dotproxy.downstream.udp import UdpListener
from dotproxy.downstream.udp_port import UdpPort, make_port
from dotproxy.errors import ConfigError
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.policy.access import AccessList
from dotproxy.policy.client_shares import ClientShare
from dotproxy.policy.server_cookies import Cookies
from dotproxy.service.builders import build_response_limit
from dotproxy.service.listener_certificate import ListenerCertificate
from dotproxy.service.network_monitor import boottime
from dotproxy.service.readiness import Readiness
from dotproxy.service.systemd import Manager
from dotproxy.telemetry.counters import ListenerCounters
from dotproxy.telemetry.words import pluralized
from dotproxy.upstream.spec import endpoint_text

#: How long outstanding queries are waited for when the proxy stops, in seconds.
DRAIN = 2.0

log = Logger("dotproxy")


@dataclass(slots=True)
class WorkerShare:
    """
    What one process has of a proxy that is several: its ``name`` among them, the ``secret`` of them all, 32
    unpredictable octets, and sockets, bound already.

    ``spare`` are datagram sockets of the others, by their names, to be read while one of them cannot.
    """

    name: str
    secret: bytes
    datagrams: Sequence[Any]
    streams: Sequence[Any]
    spare: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tls_streams: Sequence[Any] = ()


class Proxy(MultiService):
    """
    The running proxy, or a share of it.

    ``privilegedStartService`` binds, so that root can be given up before ``startService`` serves.  ``addresses`` holds
    where it listens, once it does, ``tls_addresses`` where over TLS.  ``load_config`` loads the configuration as it is
    now, ``rebuilt`` makes another one hold, in ``config`` too, and returns what changed; ``sockets`` are
    those opened for it by systemd or a supervisor, ``tls_sockets`` those for TLS; ``served_tls`` has the certificate.
    ``origin`` says where the configuration came from, ``warnings`` which of those about it were logged.
    ``check_upstreams`` has each upstream tried; ``readiness`` tells how many work, unless another process does.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        services: Sequence[IService],
        forwarder: Forwarder,
        *,
        rebuilt: Callable[[Config], list[str]],
        check_upstreams: Callable[[], None],
        secret: bytes,
        manager: Manager,
        sockets: tuple[Sequence[Any], Sequence[Any]] = ((), ()),
        tls_sockets: Sequence[Any] = (),
        certificate: ListenerCertificate | None = None,
        share: WorkerShare | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.forwarder = forwarder
        self.is_draining = False
        self.load_config: Callable[[], Loaded] | None = None
        self.origin = ""
        self.warnings: tuple[str, ...] = ()
        self.readiness: Readiness | None = None
        self._check_upstreams = check_upstreams
        self._reactor = reactor
        self._rebuilt = rebuilt
        self._manager = manager
        self._share = share
        self._datagrams, self._streams = (
            (list(share.datagrams), list(share.streams)) if share else (list(sockets[0]), list(sockets[1]))
        )
        self._tls_streams = list(share.tls_streams if share else tls_sockets)
        self.certificate = certificate
        self.tls_addresses: list[str] = []
        self.listener_counters = ListenerCounters()
        self.factory = ListenerFactory(
            forwarder,
            ForwarderResolver(forwarder, reactor),
            clock=reactor,
            now=time.monotonic,
            idle_timeout=config.tcp_idle_timeout,
            max_connections=config.tcp_max_connections,
            max_outstanding=config.tcp_max_outstanding,
            share_of=self._share_of,
            ended=forwarder.counters.connections_ended,
            tells_idle_timeout=not config.transparent,
        )
        self._limit_responses = build_response_limit(config, forwarder.counters)
        self.datagram_ports: list[UdpPort] = []
        self._spare_ports: dict[str, list[UdpPort]] = {}
        self._stream_ports: list[Any] = []
        self._cookie_for = Cookies(secret).option_for if config.udp_cookies and not config.transparent else None
        balancers = config.proxy_protocol_from
        self._is_balancer = AccessList(balancers).allows if balancers else None
        for service in (manager, *services):
            service.setServiceParent(self)
        if certificate is not None:
            certificate.setServiceParent(self)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """
        The address and port of each listener.
        """
        return [datagrams.getsockname()[:2] for datagrams in self._datagrams]

    @property
    def io_mode(self) -> str:
        """
        How datagrams are read and written, "" if none are.
        """
        return next((port.io_mode for port in self.datagram_ports), "")

    def privilegedStartService(self) -> None:
        """
        Bind every listener, or none; none, if sockets were handed over.

        :raises CannotBind: naming every one that could not be.
        """
        super().privilegedStartService()
        plain = () if self._datagrams or self._streams else self.config.listen
        tls = () if self._tls_streams else self.config.listen_tls
        (datagrams,), streams, tls_streams = bind_with_tls(
            [(one.host, one.port) for one in plain], [(one.host, one.port) for one in tls]
        )
        self._datagrams += datagrams
        self._streams += streams
        self._tls_streams += tls_streams

    def startService(self) -> None:
        """
        Serve.
        """
        if not (self._datagrams or self._streams):  # what started it knows no privileges, as `twist` or a test
            self.privilegedStartService()
        super().startService()
        if self._share is None:
            log.info("dotproxy {version}, configuration: {origin}", version=__version__, origin=self.origin or "given")
        self._listen()
        if self._share is None:
            log_listening(self._datagrams, self._streams, self._tls_streams)
            if self.config.is_debug:
                log.debug("datagrams are read and written {manner}", manner=self.io_mode)
            log_upstreams(self.config)
        for streams in (*self._streams, *self._tls_streams):  # the reactor has its own
            streams.close()
        self._check_upstreams()
        if self.readiness is not None:
            self.readiness.begin()

    def stopService(self) -> Deferred[None]:
        """
        Take no more questions, answer those there are, for a bounded time; then end everything.
        """
        return Deferred.fromCoroutine(self._stop())

    def stop_now(self) -> None:
        """
        Do not wait for what is outstanding any longer.
        """
        self.forwarder.stop()

    def reload(self) -> list[str]:
        """
        Have the configuration as it is now; return what changed.  What cannot be used changes nothing; neither does
        one that only lacks what was given before about who is asked, believed and served (``config.fallback``).

        :raises ConfigError: with every problem there is with it.
        """
        self._manager.reloading()
        try:
            if self.load_config is None:
                raise ConfigError(["there is nothing to read a configuration from"])
            fresh = self.load_config()
            changes = self.apply_config(without_fallbacks(self.config, fresh))
        except ConfigError as error:
            log_problems(error)
            raise
        finally:
            self._manager.ready(self.readiness.text if self.readiness is not None else "")
        self.warnings = log_warnings(fresh, self.warnings)
        log.info("configuration read: {changes}", changes="; ".join(changes) or "nothing has changed")
        return changes

    def apply_config(self, config: Config) -> list[str]:
        """
        Have another configuration; return what changed.
        """
        changes = self._rebuilt(config)
        self.factory.idle_timeout = self.config.tcp_idle_timeout
        self.factory.max_connections = self.config.tcp_max_connections
        self.factory.max_outstanding = self.config.tcp_max_outstanding
        self._limit_responses = build_response_limit(self.config, self.forwarder.counters)
        for port in self._every_datagram_port():
            port.protocol.limit_responses = self._limit_responses
        return changes

    def take_over(self, name: str) -> None:
        """
        Read what comes for another one, who cannot.
        """
        for port in self._spare_ports.get(name, ()):
            port.startReading()

    def release(self, name: str) -> None:
        """
        The other one can again.
        """
        for port in self._spare_ports.get(name, ()):
            port.stopReading()

    def _listen(self) -> None:
        self.datagram_ports = [self._open(datagrams) for datagrams in self._datagrams]
        if self._share is not None:
            for name, sockets in self._share.spare.items():
                self._spare_ports[name] = [self._open(datagrams) for datagrams in sockets]
                self.release(name)
        over_tcp, over_tls = self._stream_factories()
        self._accept(self._streams, over_tcp)
        if over_tls is not None:
            self._accept(self._tls_streams, over_tls)
            self.tls_addresses = addresses_of(self._tls_streams)

    def _stream_factories(self) -> tuple[Any, Any]:
        counters, is_balancer = self.listener_counters, self._is_balancer
        context = None if self.certificate is None else self.certificate.current
        if is_balancer is not None:
            over_tls = context and proxied_tls_factory(self.factory, context, is_balancer, counters)
            return proxied_tcp_factory(self.factory, is_balancer, counters), over_tls
        clients = TlsConnectionFactory(self.factory, counters)
        return self.factory, context and TlsListenerFactory(clients, context, self._reactor)

    def _accept(self, sockets: Sequence[Any], factory: Any) -> None:
        for streams in sockets:
            port = TcpPort(streams, factory, self._reactor)
            port.startListening()
            self._stream_ports.append(port)

    def _share_of(self, host: str) -> ClientShare:
        """
        Return the share of a client whose address is not forged: it has completed TCP's handshake.
        """
        shares = self.forwarder.shares
        share = shares.of(host, boottime())
        shares.verify(share)
        return share

    def _open(self, datagrams: Any) -> UdpPort:
        listener = UdpListener(self.factory, self._reactor, self._cookie_for)
        if self._is_balancer is not None:
            listener = ProxiedUdpListener(
                self.factory, self._reactor, self._cookie_for, self._is_balancer, self.listener_counters
            )
        listener.limit_responses = self._limit_responses
        port = make_port(datagrams, listener, self._reactor, batched=self.config.udp_batched)
        port.startListening()
        return port

    def _every_datagram_port(self) -> list[UdpPort]:
        return [*self.datagram_ports, *(port for ports in self._spare_ports.values() for port in ports)]

    def _give_up(self) -> None:
        self.factory.max_outstanding = 0  # connections hand nothing more on
        self.forwarder.stop()

    async def _stop(self) -> None:
        self.is_draining = True
        if self.readiness is not None:
            self.readiness.end()
        self._manager.tell("STOPPING=1", "STATUS=answering what is outstanding")
        for port in self._stream_ports:
            await maybeDeferred(port.stopListening)
        every_port = self._every_datagram_port()
        for port in every_port:
            port.stopReading()
        limit = self._reactor.callLater(DRAIN, self._give_up)
        await self.forwarder.drain()
        if limit.active():
            limit.cancel()
        self.forwarder.stop()
        for port in every_port:
            await maybeDeferred(port.stopListening)
        for connection in tuple(self.factory.connections):
            connection.close()
        await super().stopService()
        self._datagrams, self._streams, self._tls_streams = [], [], []
        log.info("stopped")


def log_problems(error: ConfigError) -> None:
    """
    Say why a configuration is not used.
    """
    for problem in error.problems:
        log.error("the configuration stays as it was: {problem}", problem=problem)


def log_warnings(loaded: Loaded, known: Sequence[str] = ()) -> tuple[str, ...]:
    """
    Say what was passed over in a configuration, and what it opens, but for what is ``known``; return all of it.
    """
    for warning in loaded.warnings:
        if warning not in known:
            log.warn("{warning}", warning=warning)
    return loaded.warnings


def log_upstreams(config: Config) -> None:
    """
    Say who will be believed, and for what reason.
    """
    roots = f"the CAs in {config.ca_file}" if config.ca_file else "the system's CAs"
    each: list[str] = []
    for address in config.upstream:
        pins = f" with {pluralized(len(address.pins), 'pin')}" if address.pins else ""
        each.append(f"{address.label} as {address.name or address.addresses[0][0]}{pins}")
    log.info("upstreams: {upstreams}; verified against {roots}", upstreams=", ".join(each), roots=roots)


def addresses_of(sockets: Sequence[Any]) -> list[str]:
    """
    Return the address and port of each socket that is open, as text.
    """
    return [endpoint_text(*bound.getsockname()[:2]) for bound in sockets if bound.fileno() >= 0]


def log_listening(datagrams: Sequence[Any], streams: Sequence[Any], tls_streams: Sequence[Any] = ()) -> None:
    """
    Say where clients are listened to, and where that is of no use yet.
    """
    over: dict[tuple[str, int], list[str]] = {}
    for transport, sockets in (("UDP", datagrams), ("TCP", streams), ("TLS", tls_streams)):
        for bound in sockets:
            over.setdefault(bound.getsockname()[:2], []).append(transport)
    for (host, port), transports in over.items():
        if has_address(host):
            text, level = "listening on {address} ({transports})", LogLevel.info
        else:
            text, level = "listening on {address} ({transports}), once this machine has that address", LogLevel.warn
        log.emit(level, text, address=endpoint_text(host, port), transports=", ".join(transports))
