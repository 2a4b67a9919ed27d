"""
A DNS-over-TLS upstream that does one thing wrong, and writes down every connection and every query it receives.

    python -m benchmarks.scripted hang-up CERTIFICATE KEY --port 8853 [--delay 0.05] [--ending rst] [--tls 1.2]

Decides what the upstream does with a query; who asks, and how often, is the business of the measurement.  One line for
each event goes to standard output, with the time of CLOCK_MONOTONIC: ``accepted TIME``, ``shaken TIME`` (the handshake
is complete), ``query TIME NAME TYPE``.
"""

from __future__ import annotations

import argparse
import enum
import sys
import time
from pathlib import Path
from socket import inet_aton
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor as the_reactor
from twisted.internet.interfaces import IAddress, IHandshakeListener, IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from benchmarks.load import ADDRESS
from dotproxy.wire.framing import frame
from dotproxy.wire.message import question_of
from dotproxy.wire.names import to_text
from tests.misbehaving import modes

reactor: Any = the_reactor

#: Names below this domain are bad; everything else is an ordinary name.
BAD_ZONE = "bad.example"

_VERSIONS = {"1.1": SSL.TLS1_1_VERSION, "1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_SERVFAIL = 2


class Behaviour(enum.Enum):
    """
    What the upstream does.
    """

    HANG_UP = "hang-up"  # answers; ends the connection at a bad name
    SERVFAIL = "servfail"  # answers; SERVFAIL for a bad name
    ANSWER = "answer"  # answers everything
    CLOSE_EACH = "close-each"  # closes the connection after each answer
    PLAIN = "plain"  # speaks plain DNS on this port


class Ending(enum.Enum):
    """
    How the upstream ends a connection.
    """

    CLOSE_NOTIFY = "close_notify"
    FIN = "fin"  # without a close_notify
    RST = "rst"


def note(event: str, *details: object) -> None:
    """
    Write an event down.
    """
    sys.stdout.write(" ".join(map(str, (event, f"{time.monotonic():.6f}", *details))) + "\n")
    sys.stdout.flush()


@implementer(IHandshakeListener)
class Connection(modes.Connection):
    """
    One connection from a forwarder.
    """

    factory: Upstream

    def handshakeCompleted(self) -> None:
        """
        TLS stands.
        """
        note("shaken")

    def dataReceived(self, data: bytes) -> None:
        """
        Note each query, those behind a bad one included, and deal with it unless the connection has ended.
        """
        for query in self.deframer.feed(data):
            end = question_of(query)
            name, rtype = to_text(query[12 : end - 4]).rstrip(".").lower(), int.from_bytes(query[end - 4 : end - 2])
            note("query", name or ".", rtype)
            if not self.is_silent and not self.is_over:
                self.factory.receive(self, query, is_bad=name.endswith(f".{BAD_ZONE}"))

    def end(self) -> None:
        """
        End it in the way of this upstream: the socket is closed at once, as close(2) does.
        """
        ending = self.factory.ending
        self.is_silent = True
        if ending is Ending.RST:
            self.raw().abortConnection()  # that of TLS sends a close_notify before the reset
            return
        self.transport._aggregator.flush()  # answers of this turn of the reactor, which would come after the end
        if ending is Ending.CLOSE_NOTIFY:
            self.transport._tlsConnection.shutdown()
            self.transport._flushSendBIO()
        self.raw().loseConnection()


class Upstream(Factory):
    """
    The upstream: ``delay`` is what it takes over each answer, ``hang_up_after`` what it takes to hang up, in seconds.
    """

    noisy = False

    def __init__(self, behaviour: Behaviour, ending: Ending, delay: float, hang_up_after: float = 0.0) -> None:
        self.behaviour = behaviour
        self.hang_up_after = hang_up_after
        self.ending = ending
        self.delay = delay
        self.accepted = 0
        self.connections: set[modes.Connection] = set()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Take a connection.
        """
        self.accepted += 1
        note("accepted")
        connection = Connection()
        connection.factory = self
        return connection

    def receive(self, client: Connection, query: bytes, *, is_bad: bool) -> None:
        """
        Deal with a query.
        """
        if is_bad and self.behaviour is Behaviour.HANG_UP and self.hang_up_after:
            client.later(self.hang_up_after, client.end)
        elif is_bad and self.behaviour is Behaviour.HANG_UP:
            client.end()
        elif self.behaviour is Behaviour.CLOSE_EACH:
            client.later(self.delay, self._answer_and_end, client, query)
        else:
            rcode = _SERVFAIL if is_bad and self.behaviour is Behaviour.SERVFAIL else 0
            client.later(self.delay, client.send, answer(query, rcode))

    @staticmethod
    def _answer_and_end(client: Connection, query: bytes) -> None:
        if not client.is_silent:
            client.send(answer(query))
            client.end()


class PlainServer(Protocol):
    """
    A server for plain DNS over TCP: what it reads is no query to it, so it says FORMERR, in 14 octets.
    """

    def connectionMade(self) -> None:
        """
        Count it.
        """
        note("accepted")

    def dataReceived(self, data: bytes) -> None:
        """
        Say FORMERR.
        """
        assert self.transport is not None
        self.transport.write(frame(data[:2].ljust(2, b"\0") + bytes.fromhex("8081 0000 0000 0000 0000")))


@implementer(IOpenSSLContextFactory)
class ServerContext:
    """
    What Twisted asks for the TLS context of a server.
    """

    def __init__(self, certificate: Path, key: Path, version: str) -> None:
        self._context = context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate_chain_file(str(certificate))
        context.use_privatekey_file(str(key))
        context.set_session_id(b"scripted")
        context.set_alpn_select_callback(
            lambda _, offered: b"dot" if b"dot" in offered else SSL.NO_OVERLAPPING_PROTOCOLS
        )
        if version in _VERSIONS:
            context.set_min_proto_version(min(_VERSIONS[version], SSL.TLS1_2_VERSION))
            context.set_max_proto_version(_VERSIONS[version])
        if version == "1.1":  # OpenSSL takes it for too weak otherwise
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_cipher_list(b"ALL:@SECLEVEL=0")

    def getContext(self) -> SSL.Context:
        """
        The same for each connection, so that sessions can be resumed.
        """
        return self._context


def answer(query: bytes, rcode: int = 0) -> bytes:
    """
    The one address there is, or an error; with an OPT record if the query has EDNS, as its last record or its only one.
    """
    end = question_of(query)
    records = b"" if rcode else b"\xc0\x0c\0\1\0\1\0\1\x51\x80\0\4" + inet_aton(ADDRESS)
    opt = bytes.fromhex("00 0029 04d0 00000000 0000") if query[10:12] != b"\0\0" else b""
    counts = bytes((0, 1, 0, int(not rcode), 0, 0, 0, int(bool(opt))))
    return query[:2] + bytes((0x81, 0x80 | rcode)) + counts + query[12:end] + records + opt


def main() -> None:
    """
    Serve until stopped.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.scripted", description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("behaviour", choices=[each.value for each in Behaviour])
    parser.add_argument("certificate", type=Path)
    parser.add_argument("key", type=Path)
    parser.add_argument("--port", type=int, default=8853)
    parser.add_argument("--delay", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--hang-up-after", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--ending", choices=[each.value for each in Ending], default=Ending.CLOSE_NOTIFY.value)
    parser.add_argument("--tls", choices=["any", *_VERSIONS], default="any", help="1.2 means no other")
    given = parser.parse_args()
    behaviour = Behaviour(given.behaviour)
    factory: Any = Upstream(behaviour, Ending(given.ending), given.delay, given.hang_up_after)
    if behaviour is Behaviour.PLAIN:
        factory = Factory.forProtocol(PlainServer)
    else:
        factory = TLSMemoryBIOFactory(ServerContext(given.certificate, given.key, given.tls), False, factory)
    factory.noisy = False
    reactor.listenTCP(given.port, factory, backlog=512, interface="127.0.0.1")
    note("ready")
    reactor.run()


if __name__ == "__main__":
    main()
