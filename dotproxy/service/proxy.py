"""
The running proxy as a Twisted service: listeners in front, a forwarder behind.

Decides the order of start and stop: sockets are bound first, while the process may still be root; at the end listeners
stop first, then outstanding queries are answered, then everything else stops.  Refuses to know how its parts are built
from a configuration: that is ``assembly``'s.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from dotproxy import __version__
from dotproxy.config.model import Config
from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.downstream.proxy_protocol import ProxiedUdpListener, proxied_tcp_factory, proxied_tls_factory
from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.downstream.sockets import Endpoint
from dotproxy.downstream.tcp_port import TcpPort
from dotproxy.downstream.tls_listener import TlsConnectionFactory, TlsListenerFactory
from dotproxy.downstream.udp import CookieFor, LimitResponses, UdpListener
from dotproxy.downstream.udp_port import UdpPort, make_port
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.policy.client_shares import ClientShare
from dotproxy.service.listener_certificate import ListenerCertificate
from dotproxy.service.listening import ListeningSockets, endpoints_of, log_listening, log_upstreams
from dotproxy.service.network_monitor import boottime
from dotproxy.service.reactor import IServiceReactor
from dotproxy.service.readiness import Readiness
from dotproxy.service.reload import ConfigSource, Reloadable, Reloader
from dotproxy.service.systemd import ServiceNotifier
from dotproxy.telemetry.counters import ListenerCounters

#: How long outstanding queries may take to be answered when the proxy stops, in seconds.
DRAIN = 2.0

log = Logger("dotproxy")


class ProxySettings(NamedTuple):
    """
    The settings of a proxy's listeners, the same record for construction and for a reload.

    A reload changes the limits: ``tcp_idle_timeout`` (seconds), ``tcp_max_connections``, ``tcp_max_outstanding``
    (queries of one connection) and ``limit_responses``.  The others hold from the start on.
    """

    tcp_idle_timeout: float
    tcp_max_connections: int
    tcp_max_outstanding: int
    limit_responses: LimitResponses | None = None
    cookie_for: CookieFor | None = None
    is_balancer: Callable[[str], bool] | None = None
    is_batched: bool = True
    tells_idle_timeout: bool = True


@dataclass(slots=True)
class WorkerShare:
    """
    What one worker serves of a proxy with several processes.

    ``name`` is the worker's, ``secret`` 32 unpredictable octets that all workers have, ``sockets`` are bound already.
    ``spare`` are UDP sockets of the other workers, by their names; they are read while their worker cannot.
    """

    name: str
    secret: bytes
    sockets: ListeningSockets
    spare: Mapping[str, Sequence[socket.socket]] = field(default_factory=dict)


class ProxyParts(Reloadable, Protocol):
    """
    What a proxy needs of what has built it.
    """

    def check_upstreams(self) -> None:
        """
        Dial each upstream that is not verified yet.
        """


class Proxy(MultiService):
    """
    The running proxy, or a worker's share of it.

    Owns: the listening ports, and the factory that they share.
    Told by: twistd (``privilegedStartService`` binds, so that root can be given up before ``startService`` serves).
    Tells: ``parts`` (``apply_config``, ``check_upstreams``), ``notifier``, ``readiness``.

    ``sockets`` are those passed by systemd or a supervisor; what is missing is bound.  ``readiness`` is None in a
    worker: the supervisor reports for all.
    """

    def __init__(
        self,
        parts: ProxyParts,
        forwarder: Forwarder,
        settings: ProxySettings,
        reactor: IServiceReactor,
        *,
        notifier: ServiceNotifier,
        sockets: ListeningSockets,
        certificate: ListenerCertificate | None = None,
        source: ConfigSource,
        readiness: Readiness | None = None,
        share: WorkerShare | None = None,
    ) -> None:
        super().__init__()
        self.forwarder = forwarder
        self.readiness = readiness
        self.certificate = certificate
        self.is_draining = False
        self.tls_addresses: list[str] = []
        self.listener_counters = ListenerCounters()
        self.datagram_ports: list[UdpPort] = []
        self._spare_ports: dict[str, list[UdpPort]] = {}
        self._stream_ports: list[TcpPort] = []
        self._parts = parts
        self._settings = settings
        self._reactor = reactor
        self._notifier = notifier
        self._sockets = sockets
        self._source = source
        self._share = share
        self._reloader = Reloader(parts, source, notifier, lambda: readiness.text if readiness is not None else "")
        self.factory = self._build_factory(settings)

    def add_services(self, services: Iterable[IService]) -> None:
        """
        Start and stop these with the proxy, in this order.
        """
        for service in services:
            service.setServiceParent(self)

    @property
    def config(self) -> Config:
        """
        The configuration in effect.
        """
        return self._parts.config

    @property
    def addresses(self) -> list[Endpoint]:
        """
        The address and port of each listener.
        """
        return self._sockets.addresses

    @property
    def io_mode(self) -> str:
        """
        How datagrams are read and written; "" without a UDP port.
        """
        return next((port.io_mode for port in self.datagram_ports), "")

    def privilegedStartService(self) -> None:
        """
        Bind every listener, or none; sockets that were passed are not bound again.

        :raises CannotBind: naming every address that cannot be bound.
        """
        super().privilegedStartService()
        self._sockets.bind_missing(self.config)

    def startService(self) -> None:
        """
        Serve clients.
        """
        if not self._sockets.has_plain:  # `twist`, and tests, do not call privilegedStartService
            self.privilegedStartService()
        super().startService()
        if self._share is None:
            log.info("dotproxy {version}, configuration: {origin}", version=__version__, origin=self._source.origin)
        self._listen()
        if self._share is None:
            log_listening(self._sockets)
            if self.config.is_debug:
                log.debug("datagrams are read and written {io_mode}", io_mode=self.io_mode)
            log_upstreams(self.config)
        self._sockets.close_streams()
        self._parts.check_upstreams()
        if self.readiness is not None:
            self.readiness.begin()

    def stopService(self) -> Deferred[None]:
        """
        Stop listening, answer outstanding queries for at most ``DRAIN`` seconds, then stop everything.
        """
        return Deferred.fromCoroutine(self._stop())

    def stop_now(self) -> None:
        """
        Fail outstanding queries at once.
        """
        self.forwarder.stop()

    def reload(self) -> list[str]:
        """
        Reload the configuration; return a phrase for each change.

        :raises ConfigError: with every problem, if it is not usable; then nothing changes.
        """
        return self._reloader.reload()

    def apply_settings(self, settings: ProxySettings) -> None:
        """
        Put the limits of ``settings`` into effect.
        """
        self._settings = settings
        self.factory.idle_timeout = settings.tcp_idle_timeout
        self.factory.max_connections = settings.tcp_max_connections
        self.factory.max_outstanding = settings.tcp_max_outstanding
        for port in self._every_datagram_port():
            port.protocol.limit_responses = settings.limit_responses

    def take_over(self, name: str) -> None:
        """
        Read the sockets of worker ``name``, which cannot at the moment.
        """
        for port in self._spare_ports.get(name, ()):
            port.startReading()

    def release(self, name: str) -> None:
        """
        Stop reading the sockets of worker ``name``, which reads them itself again.
        """
        for port in self._spare_ports.get(name, ()):
            port.stopReading()

    def _build_factory(self, settings: ProxySettings) -> ListenerFactory:
        return ListenerFactory(
            self.forwarder,
            ForwarderResolver(self.forwarder, self._reactor),
            clock=self._reactor,
            now=time.monotonic,
            idle_timeout=settings.tcp_idle_timeout,
            max_connections=settings.tcp_max_connections,
            max_outstanding=settings.tcp_max_outstanding,
            share_of=self._share_of,
            ended_counts=self.forwarder.counters.connections_ended,
            tells_idle_timeout=settings.tells_idle_timeout,
        )

    def _listen(self) -> None:
        self.datagram_ports = [self._open(bound) for bound in self._sockets.datagrams]
        if self._share is not None:
            for name, sockets in self._share.spare.items():
                self._spare_ports[name] = [self._open(bound) for bound in sockets]
                self.release(name)
        self._accept(self._sockets.streams, self._tcp_factory())
        tls_factory = self._tls_factory()
        if tls_factory is not None:
            self._accept(self._sockets.tls_streams, tls_factory)
            self.tls_addresses = list(map(str, endpoints_of(self._sockets.tls_streams)))

    def _tcp_factory(self) -> IProtocolFactory:
        is_balancer = self._settings.is_balancer
        if is_balancer is None:
            return self.factory
        return proxied_tcp_factory(self.factory, is_balancer, self.listener_counters)

    def _tls_factory(self) -> IProtocolFactory | None:
        if self.certificate is None:
            return None
        is_balancer, context = self._settings.is_balancer, self.certificate.current
        if is_balancer is None:
            return TlsListenerFactory(
                TlsConnectionFactory(self.factory, self.listener_counters), context, self._reactor
            )
        return proxied_tls_factory(self.factory, context, is_balancer, self.listener_counters)

    def _accept(self, sockets: Sequence[socket.socket], factory: IProtocolFactory) -> None:
        for bound in sockets:
            port = TcpPort(bound, factory, self._reactor)
            port.startListening()
            self._stream_ports.append(port)

    def _share_of(self, host: str) -> ClientShare:
        """
        Return the share of a client whose address is not forged: it has completed TCP's handshake.
        """
        shares = self.forwarder.shares
        share = shares.share_of(host, boottime())
        shares.verify(share)
        return share

    def _open(self, bound: socket.socket) -> UdpPort:
        settings = self._settings
        if settings.is_balancer is None:
            listener = UdpListener(self.factory, self._reactor, settings.cookie_for)
        else:
            listener = ProxiedUdpListener(
                self.factory, self._reactor, settings.cookie_for, settings.is_balancer, self.listener_counters
            )
        listener.limit_responses = settings.limit_responses
        port = make_port(bound, listener, self._reactor, batched=settings.is_batched)
        port.startListening()
        return port

    def _every_datagram_port(self) -> list[UdpPort]:
        return [*self.datagram_ports, *(port for ports in self._spare_ports.values() for port in ports)]

    def _give_up_draining(self) -> None:
        self.factory.max_outstanding = 0  # connections hand on no further query
        self.forwarder.stop()

    async def _stop(self) -> None:
        self.is_draining = True
        if self.readiness is not None:
            self.readiness.end()
        self._notifier.tell("STOPPING=1", "STATUS=answering what is outstanding")
        for stream_port in self._stream_ports:
            await maybeDeferred(stream_port.stopListening)
        datagram_ports = self._every_datagram_port()
        for port in datagram_ports:
            port.stopReading()
        limit = self._reactor.callLater(DRAIN, self._give_up_draining)
        await self.forwarder.drain()
        if limit.active():
            limit.cancel()
        self.forwarder.stop()
        for port in datagram_ports:
            await maybeDeferred(port.stopListening)
        for connection in tuple(self.factory.connections):
            connection.close()
        await super().stopService()
        self._sockets.clear()
        log.info("stopped")
