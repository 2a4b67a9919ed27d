"""
A DNS-over-TLS upstream of which an attacker may ask anything: cheap, and with answers of every size.

    python -m benchmarks.attack_upstream CERTIFICATE KEY --port 8853

Decides what is answered, by the zone of ``attack_queries``; every other name has one address.  It counts queries by
zone, and prints the counts as a line of JSON when they change.  A connection whose answers are not read is read no
further; with ``--intake`` all connections together are read at that rate, as over a link that has no more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import socket
import ssl
import sys
import time
from collections import Counter
from pathlib import Path
from socket import inet_aton

from benchmarks.attack_queries import PARENT, Zone
from benchmarks.load import ADDRESS
from dotproxy.wire.edns import opt_record
from dotproxy.wire.names import from_text

_ZONE_OCTETS = len(Zone.TINY.wire)
_TTL = b"\x00\x01\x51\x80"
_TXT_HEAD = b"\0\x10\0\1" + _TTL
_OPT = opt_record(1232)

#: From how many unsent octets on a connection is read no further.
_MOST_UNSENT = 1 << 20

#: How long to wait until more may be read, in seconds.
_PAUSE = 0.005

#: What the kernel may hold of a connection that is read slowly: little, but more than a segment of loopback has.
_SMALL_BUFFER = 524_288

#: How often counts are printed, in seconds, if they changed.
_REPORT = 0.2

#: What the count of all other names is called.
ORDINARY = "ordinary"


def _text_records(count: int, size: int) -> bytes:
    """
    TXT records of the question's name, each with one string that no other has.
    """
    head = b"\xc0\x0c" + _TXT_HEAD + (size + 1).to_bytes(2, "big") + bytes((size,))
    return b"".join(head + (b"%x" % number).rjust(size, b".") for number in range(count))


_SOA = from_text(PARENT) + b"\0\6\0\1\0\0\1\x2c\0\x16" + b"\0\0" + b"\0\0\0\1" + b"\0\0\1\x2c" * 4
_ADDRESS_RECORD = b"\xc0\x0c\0\1\0\1" + _TTL + b"\0\4" + inet_aton(ADDRESS)


def _fields(rcode: int, answers: int, authorities: int) -> bytes:
    return bytes((0x81, 0x80 | rcode, 0, 1)) + answers.to_bytes(2, "big") + authorities.to_bytes(2, "big")


#: Flags and counts but the last one, and the records behind the question, for a zone's names.
_ANSWERS: dict[Zone, tuple[bytes, bytes]] = {
    Zone.TINY: (_fields(0, 5_900, 0), (b"\0" + _TXT_HEAD + b"\0\0") * 5_900),
    Zone.TEXT: (_fields(0, 4_000, 0), _text_records(4_000, 3)),
    Zone.HUGE: (_fields(0, 223, 0), _text_records(223, 255)),
    Zone.NONE: (_fields(3, 0, 1), _SOA),
    Zone.SOME: (_fields(0, 1, 0), _ADDRESS_RECORD),
}
_BY_NAME = {zone.wire: zone for zone in Zone}


class Connection:
    """
    One connection from a forwarder, its handshake included.  Ends when the forwarder ends it.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, upstream: Upstream) -> None:
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._upstream = upstream
        self._is_shaken = False
        self.is_held = False
        self._read = bytearray()
        self._unsent = bytearray()

    @property
    def wanted(self) -> int:
        """
        What to wait for.
        """
        reads = len(self._unsent) < _MOST_UNSENT and not self.is_held
        return (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if self._unsent else 0)

    def turn(self) -> bool:
        """
        Read, answer and write what can be; return whether the connection stands.
        """
        try:
            if not self._is_shaken:
                self.tls.do_handshake()
                self._is_shaken = True
            self._send()
            while len(self._unsent) < _MOST_UNSENT and not self._is_to_wait():
                if not (octets := self.tls.recv(65536)):
                    return False
                self._upstream.intake.take(len(octets))
                self._read += octets
                self._answer()
                self._send()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            return False
        return True

    def _is_to_wait(self) -> bool:
        self.is_held = not self._upstream.intake.may_read()
        if self.is_held:
            self._upstream.held.add(self)
        return self.is_held

    def _send(self) -> None:
        with memoryview(self._unsent) as view:
            sent = 0
            try:
                while sent < len(view):
                    sent += self.tls.send(view[sent : sent + 65536])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
        del self._unsent[:sent]

    def _answer(self) -> None:
        read, begin = bytes(self._read), 0
        answers: list[bytes] = []
        while begin + 2 <= len(read):
            end = begin + 2 + (read[begin] << 8 | read[begin + 1])
            if end > len(read):
                break
            answers.append(self._upstream.answer(read[begin + 2 : end]))
            begin = end
        del self._read[:begin]
        self._unsent += b"".join(answers)


class Intake:
    """
    How much may be read: ``rate`` octets a second, a tenth of a second's worth at once; 0 for any amount.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left = rate / 10
        self._at = time.monotonic()

    def may_read(self) -> bool:
        """
        Whether anything may be read now.
        """
        if self._rate:
            now = time.monotonic()
            self._left = min(self._rate / 10, self._left + (now - self._at) * self._rate)
            self._at = now
        return not self._rate or self._left > 0

    def take(self, octets: int) -> None:
        """
        So much was read.
        """
        self._left -= octets


class Upstream:
    """
    What all connections share: what is answered, the counts, and which of them wait until they may be read.
    """

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.held: set[Connection] = set()
        self._counts: Counter[Zone | None] = Counter()
        self._printed = 0
        self._due = 0.0

    def answer(self, query: bytes) -> bytes:
        """
        Return what a query is answered with, framed; nothing, if it is never answered.
        """
        end = query.index(b"\0", 12) + 5  # no label of ours has an octet 0
        zone = _BY_NAME.get(query[end - 4 - _ZONE_OCTETS : end - 4].lower())
        self._counts[zone] += 1
        if zone is Zone.MUTE:
            return b""
        fields, records = _ANSWERS[zone or Zone.SOME]
        message = query[:2] + fields + (b"\0\1" if query[11] else b"\0\0") + query[12:end] + records
        message += _OPT if query[11] else b""
        return len(message).to_bytes(2, "big") + message

    def report(self) -> None:
        """
        Print the counts, if they changed since the last time and that was a while ago.
        """
        now, total = time.monotonic(), self._counts.total()
        if total != self._printed and now >= self._due:
            self._printed, self._due = total, now + _REPORT
            counts = {zone.value if zone else ORDINARY: count for zone, count in self._counts.items()}
            sys.stdout.write(json.dumps(counts) + "\n")
            sys.stdout.flush()


def serve(listener: socket.socket, context: ssl.SSLContext, upstream: Upstream) -> None:
    """
    Serve until the process is stopped.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            ready = selector.select(_PAUSE if upstream.held else _REPORT)
            turned = {key.data for key, _ in ready} | upstream.held
            upstream.held = set()
            for connection in turned:
                if connection is None:
                    connected = Connection(listener.accept()[0], context, upstream)
                    selector.register(connected.tls, connected.wanted, connected)
                else:
                    _turn(selector, connection)
            upstream.report()


def _turn(selector: selectors.BaseSelector, connection: Connection) -> None:
    before = connection.wanted
    stands = connection.turn()
    wanted = connection.wanted if stands else 0
    if before and not wanted:  # no selector takes that one waits for nothing
        selector.unregister(connection.tls)
    elif wanted and not before:
        selector.register(connection.tls, wanted, connection)
    elif wanted != before:
        selector.modify(connection.tls, wanted, connection)
    if not stands:
        with contextlib.suppress(OSError):
            connection.tls.close()


def main() -> None:
    """
    Listen on 127.0.0.1.
    """
    parser = argparse.ArgumentParser(
        prog="benchmarks.attack_upstream", description=(__doc__ or "").split("\n\n")[0].strip()
    )
    parser.add_argument("certificate", type=Path)
    parser.add_argument("key", type=Path)
    parser.add_argument("--port", type=int, default=8853)
    parser.add_argument("--intake", type=float, default=0.0, metavar="OCTETS", help="read a second; 0 for any number")
    given = parser.parse_args()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(given.certificate, given.key)
    context.set_alpn_protocols(["dot"])
    with socket.create_server(("127.0.0.1", given.port), backlog=512) as listener:
        if given.intake:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        serve(listener, context, Upstream(Intake(given.intake)))


if __name__ == "__main__":
    main()
