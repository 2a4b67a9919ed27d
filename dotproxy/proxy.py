"""
The running proxy, as a service: listeners in front, a forwarder behind.

Decides the order in which things begin and end: root's part first; on the way out listeners first, then what is
outstanding, then the rest.  What is built how is ``assembly``'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from dotproxy import __version__
from dotproxy.config.model import Config
from dotproxy.downstream.batch import BatchPort, make_port
from dotproxy.downstream.datagram import DatagramListener
from dotproxy.downstream.factory import ListenerFactory
from dotproxy.downstream.sockets import CannotBind, bind_both
from dotproxy.errors import ConfigError
from dotproxy.forwarder import Forwarder
from dotproxy.policy.cookies import Cookies
from dotproxy.resolver import ForwarderResolver
from dotproxy.systemd import Manager
from dotproxy.upstream.address import endpoint_text

#: How long outstanding queries are waited for when the proxy stops, in seconds.
DRAIN = 2.0

log = Logger("dotproxy")


class Proxy(MultiService):
    """
    The running proxy.

    ``privilegedStartService`` binds, so that root can be given up before ``startService`` serves.  ``addresses`` holds
    where it listens, once it does.  ``reread`` returns the configuration as it is now, ``rebuilt`` makes another one
    hold, in ``config`` too, and returns what changed; ``sockets`` are those that somebody has opened for it.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        services: Sequence[IService],
        forwarder: Forwarder,
        *,
        rebuilt: Callable[[Config], list[str]],
        manager: Manager,
        sockets: tuple[Sequence[Any], Sequence[Any]] = ((), ()),
    ) -> None:
        super().__init__()
        self.config = config
        self.forwarder = forwarder
        self.is_draining = False
        self.reread: Callable[[], Config] | None = None
        self._reactor = reactor
        self._rebuilt = rebuilt
        self._manager = manager
        self._datagrams, self._streams = list(sockets[0]), list(sockets[1])
        self.factory = ListenerFactory(
            forwarder,
            ForwarderResolver(forwarder, reactor),
            clock=reactor,
            now=time.monotonic,
            idle_timeout=config.tcp_idle_timeout,
            max_connections=config.tcp_max_connections,
            max_outstanding=config.tcp_max_outstanding,
            tells_idle_timeout=not config.transparent,
        )
        self.datagram_ports: list[BatchPort] = []
        self._stream_ports: list[Any] = []
        self._cookie_for = Cookies(os.urandom(32)).option_for if config.udp_cookies and not config.transparent else None
        for service in (manager, *services):
            service.setServiceParent(self)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """
        The address and port of each listener.
        """
        return [datagrams.getsockname()[:2] for datagrams in self._datagrams]

    def privilegedStartService(self) -> None:
        """
        Bind every listener, or none; none, if sockets were handed over.

        :raises CannotBind: naming every one that could not be.
        """
        super().privilegedStartService()
        if self._datagrams or self._streams:
            return
        problems: list[str] = []
        for address in self.config.listen:
            try:
                datagrams, streams = bind_both(address.host, address.port)
            except CannotBind as problem:
                problems.append(str(problem))
            else:
                self._datagrams.append(datagrams)
                self._streams.append(streams)
        if problems:
            for bound in (*self._datagrams, *self._streams):
                bound.close()
            self._datagrams, self._streams = [], []
            raise CannotBind("\n".join(problems))

    def startService(self) -> None:
        """
        Serve.
        """
        if not (
            self._datagrams or self._streams
        ):  # started by something that knows no privileges, as `twist` or a test
            self.privilegedStartService()
        super().startService()
        log.info("dotproxy {version}", version=__version__)
        self._listen()
        self.log_upstreams()
        log.info("ready")
        self._manager.ready("answering")

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
        Have the configuration as it is now; return what changed.  What cannot be used changes nothing.

        :raises ConfigError: with every problem there is with it.
        """
        self._manager.reloading()
        try:
            if self.reread is None:
                raise ConfigError(["there is nothing to read a configuration from"])
            changes = self._rebuilt(self.reread())
        except ConfigError as error:
            for problem in error.problems:
                log.error(  # noqa: TRY400 (what is wrong is said; where it was found out is nobody's business)
                    "the configuration stays as it was: {problem}", problem=problem
                )
            raise
        finally:
            self._manager.ready("answering")
        self.factory.idle_timeout = self.config.tcp_idle_timeout
        self.factory.max_connections = self.config.tcp_max_connections
        self.factory.max_outstanding = self.config.tcp_max_outstanding
        log.info("configuration read: {changes}", changes="; ".join(changes) or "nothing has changed")
        return changes

    def log_upstreams(self) -> None:
        """
        Say who will be believed, and for what reason.
        """
        roots = f"the CAs in {self.config.ca_file}" if self.config.ca_file else "the system's CAs"
        for address in self.config.upstream:
            wanted = f"name {address.name}" if address.name else f"IP address {address.addresses[0][0]}"
            pins = f" and {len(address.pins)} pins" if address.pins else ""
            log.info(
                "upstream {label}: strict, {wanted} verified against {roots}{pins}",
                label=address.label,
                wanted=wanted,
                roots=roots,
                pins=pins,
            )

    def _listen(self) -> None:
        for datagrams in self._datagrams:
            listener = DatagramListener(self.factory, self._reactor, self._cookie_for)
            port = make_port(datagrams, listener, self._reactor, batched=self.config.udp_batched)
            port.startListening()
            self.datagram_ports.append(port)
        for streams in self._streams:
            port = self._reactor.adoptStreamPort(streams.fileno(), streams.family, self.factory)
            self._stream_ports.append(port)
        over: dict[str, list[str]] = {}
        for transport, sockets in (("UDP", self._datagrams), ("TCP", self._streams)):
            for bound in sockets:
                over.setdefault(endpoint_text(*bound.getsockname()[:2]), []).append(transport)
        for streams in self._streams:
            streams.close()
        for address, transports in over.items():
            log.info("listening on {address} ({transports})", address=address, transports=", ".join(transports))
        if self.datagram_ports:
            log.info("datagrams are read and written {manner}", manner=self.datagram_ports[0].manner)

    async def _stop(self) -> None:
        self.is_draining = True
        self._manager.tell("STOPPING=1", "STATUS=answering what is outstanding")
        for port in self._stream_ports:
            await maybeDeferred(port.stopListening)
        for port in self.datagram_ports:
            port.stopReading()
        limit = self._reactor.callLater(DRAIN, self.forwarder.stop)
        await self.forwarder.drain()
        if limit.active():
            limit.cancel()
        self.forwarder.stop()
        for port in self.datagram_ports:
            await maybeDeferred(port.stopListening)
        for connection in tuple(self.factory.connections):
            connection.close()
        await super().stopService()
        self._datagrams, self._streams = [], []
        log.info("stopped")
