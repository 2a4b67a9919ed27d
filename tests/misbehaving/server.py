"""
A DNS-over-TLS server that misbehaves in one way.

    python -m tests.misbehaving.server MODE CERTIFICATE KEY [--port 8853] [--seed 1]

What the modes do is in ``modes``.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor as the_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.misbehaving.modes import MODES, Connection

reactor: Any = the_reactor


class Mute(Protocol):
    """
    A client that is accepted, and no more.
    """


class Server(Factory):
    """
    The server: counts connections, and does what is not any one connection's misbehaviour.
    """

    noisy = False
    protocol = Connection

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.mode = MODES[name]
        self.chance = random.Random(seed)
        self.accepted = 0
        self.connections: set[Connection] = set()

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """
        Take a connection.
        """
        self.accepted += 1
        return super().buildProtocol(addr)

    def silence(self) -> None:
        """
        Let all connections fall silent, again and again.
        """
        for connection in self.connections:
            connection.is_silent = True
        reactor.callLater(2.0, self.silence)


class SlowTLS(TLSMemoryBIOFactory):
    """
    TLS that begins a second after TCP.
    """

    def buildProtocol(self, addr: Any) -> Any:
        """
        Take a connection, and do not read from it for a while.
        """
        built: Any = super().buildProtocol(addr)
        real = built.makeConnection

        def slowly(transport: Any) -> None:
            real(transport)
            transport.pauseProducing()
            reactor.callLater(1.0, transport.resumeProducing)

        built.makeConnection = slowly
        return built


def main() -> None:
    """
    Serve until stopped.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("certificate")
    parser.add_argument("key")
    parser.add_argument("--port", type=int, default=8853)
    parser.add_argument("--interface", default="127.0.0.1")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    pem = "".join(Path(path).read_text() for path in (given.key, given.certificate))
    options = PrivateCertificate.loadPEM(pem).options()
    with_tickets = CertificateOptions(
        privateKey=options.privateKey,
        certificate=options.certificate,
        enableSessions=given.mode != "no_tickets",
        enableSessionTickets=given.mode != "no_tickets",
        acceptableProtocols=[b"dot"],
    )
    context = with_tickets.getContext()
    context.set_session_id(b"misbehaving")
    if given.mode == "no_tickets":
        context.set_options(SSL.OP_NO_TICKET)
    if given.mode == "tls_1_2":
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    server = Server(given.mode, given.seed)
    tls: Any = (SlowTLS if given.mode == "slow_handshake" else TLSMemoryBIOFactory)(with_tickets, False, server)
    if given.mode == "no_handshake":
        tls = Factory.forProtocol(Mute)
    if given.mode == "silent_later":
        reactor.callLater(2.0, server.silence)
    ports: list[Any] = []

    def listen() -> None:
        ports.append(reactor.listenTCP(given.port, tls, backlog=512, interface=given.interface))

    def flap() -> None:
        if ports:
            ports.pop().stopListening()
            for connection in tuple(server.connections):
                connection.cut()
        else:
            listen()
        reactor.callLater(1.0, flap)

    listen()
    if given.mode == "flaps":
        reactor.callLater(1.0, flap)
    print("ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
