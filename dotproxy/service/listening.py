"""
The sockets that a service listens on, whether bound here or passed by systemd or a supervisor.

Decides what is bound, and what is logged about it.  Who reads the sockets is decided by ``proxy`` and
``workers.supervisor``; their socket options are ``downstream.sockets``'s.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from twisted.logger import Logger, LogLevel

from dotproxy.config.model import Config
from dotproxy.downstream.sockets import Endpoint, bind_all, endpoint_of, has_address
from dotproxy.service.systemd import inherited, inherited_for_tls
from dotproxy.telemetry.plural import pluralized

log = Logger("dotproxy")


@dataclass(slots=True)
class ListeningSockets:
    """
    Open sockets, non-blocking: UDP, listening TCP for plain DNS, listening TCP for DNS over TLS.
    """

    datagrams: list[socket.socket] = field(default_factory=list)
    streams: list[socket.socket] = field(default_factory=list)
    tls_streams: list[socket.socket] = field(default_factory=list)

    @property
    def has_plain(self) -> bool:
        """
        Whether there is any socket for plain DNS.
        """
        return bool(self.datagrams or self.streams)

    @property
    def addresses(self) -> list[Endpoint]:
        """
        The address and port of each UDP socket that is open.
        """
        return endpoints_of(self.datagrams)

    def bind_missing(self, config: Config) -> None:
        """
        Bind ``listen`` and ``listen_tls``, each unless there are sockets for it already.  All are bound or none.

        :raises CannotBind: naming every address that cannot be bound.
        """
        bound = bind_all(
            [] if self.has_plain else [Endpoint(one.host, one.port) for one in config.listen],
            [] if self.tls_streams else [Endpoint(one.host, one.port) for one in config.listen_tls],
        )
        (datagrams,) = bound.udp
        self.datagrams += datagrams
        self.streams += bound.tcp
        self.tls_streams += bound.tls

    def close_streams(self) -> None:
        """
        Close the stream sockets; a port that listens on one has a descriptor of its own.
        """
        for bound in (*self.streams, *self.tls_streams):
            bound.close()

    def clear(self) -> None:
        """
        Forget every socket; closing them is the caller's.
        """
        self.datagrams, self.streams, self.tls_streams = [], [], []


def endpoints_of(sockets: Iterable[socket.socket]) -> list[Endpoint]:
    """
    Return the address and port of each socket that is open.
    """
    return [endpoint_of(bound) for bound in sockets if bound.fileno() >= 0]


def log_listening(sockets: ListeningSockets) -> None:
    """
    Log each address with its transports; warn of one that this machine does not have yet.
    """
    transports: dict[Endpoint, list[str]] = {}
    for transport, endpoint in _by_transport(sockets):
        transports.setdefault(endpoint, []).append(transport)
    for endpoint, names in transports.items():
        if has_address(endpoint.host):
            text, level = "listening on {address} ({transports})", LogLevel.info
        else:
            text, level = "listening on {address} ({transports}), once this machine has that address", LogLevel.warn
        log.emit(level, text, address=str(endpoint), transports=", ".join(names))


def _by_transport(sockets: ListeningSockets) -> Iterator[tuple[str, Endpoint]]:
    groups: Sequence[tuple[str, list[socket.socket]]] = (
        ("UDP", sockets.datagrams),
        ("TCP", sockets.streams),
        ("TLS", sockets.tls_streams),
    )
    for transport, bound in groups:
        for one in bound:
            yield transport, endpoint_of(one)


def log_upstreams(config: Config) -> None:
    """
    Log each upstream with the name it is verified as, and the CAs it is verified against.
    """
    roots = f"the CAs in {config.ca_file}" if config.ca_file else "the system's CAs"
    each: list[str] = []
    for upstream in config.upstream:
        pins = f" with {pluralized(len(upstream.pins), 'pin')}" if upstream.pins else ""
        host, _ = upstream.host or upstream.addresses[0]
        each.append(f"{upstream.label} as {upstream.name or host}{pins}")
    log.info("upstreams: {upstreams}; verified against {roots}", upstreams=", ".join(each), roots=roots)


def inherited_sockets(config: Config, environ: Mapping[str, str]) -> ListeningSockets:
    """
    Return the sockets that systemd has passed to this process (sd_listen_fds(3)).

    Sockets for TLS are closed, and an error is logged, if ``listen_tls`` is not set: there is no certificate for them.
    """
    datagrams, streams = inherited(environ)
    tls_streams = inherited_for_tls(environ)
    if tls_streams and not config.listen_tls:
        log.error("systemd has opened a socket named tls, but listen_tls is not set: it is not served")
        for bound in tls_streams:
            bound.close()
        tls_streams = []
    return ListeningSockets(datagrams, streams, tls_streams)
