"""
An attacker: one process that sends for so many seconds, and then prints what it sent.

    python -m benchmarks.attack_sender flood --port 5300 --seconds 8 --packets none --rate 50000 [--spoofed]
    python -m benchmarks.attack_sender noread --port 5300 --seconds 8 --packets huge --connections 250 --each 128

Decides how fast packets leave.  ``flood`` is UDP; what may be sent over TCP is in ``attack_streams``.  The last line is
JSON: ``begin`` and ``end`` in seconds of CLOCK_MONOTONIC, ``sent`` queries, ``answers`` read, ``connections`` made.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.attack_queries import KINDS, Packets, packets
from benchmarks.attack_streams import BEHAVIOURS, Swarm

#: Where the attacker is, unless its source addresses are spoofed.
ADDRESS = "127.0.0.66"

#: What could not be sent within so many seconds of when it was due is not sent.
_MOST_BEHIND = 0.05

#: How long the sender sleeps when nothing is due.
_PAUSE = 0.0005

#: From linux/in.h; Python has no name for it.
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=I4s4s")


@dataclass
class Sent:
    """
    What an attacker did.
    """

    begin: float = 0.0
    end: float = 0.0
    sent: int = 0
    answers: int = 0
    connections: int = 0


def flood(port: int, make: Packets, rate: float, seconds: float, *, is_spoofed: bool) -> Sent:
    """
    Send datagrams, ``rate`` a second or as many as can be sent.  Responses are not read: the kernel drops them when the
    socket's buffer is full, as a host drops those to addresses it does not have.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.bind(("0.0.0.0" if is_spoofed else ADDRESS, 0))
        client.setblocking(False)
        if is_spoofed:
            return _paced(_spoofing(client, port, make), rate, seconds)
        client.connect(("127.0.0.1", port))
        send = client.send
        return _paced(lambda number: send(make(number)), rate, seconds)


def _spoofing(client: socket.socket, port: int, make: Packets) -> Callable[[int], object]:
    """
    Each packet from another address below 127, of which Linux has all.
    """
    chance = random.Random(2)
    server = ("127.0.0.1", port)

    def send(number: int) -> None:
        source = b"\x7f" + (chance.getrandbits(24) | 0x010000 | 2).to_bytes(3, "big")
        control = [(socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, source, b"\0\0\0\0"))]
        client.sendmsg([make(number)], control, 0, server)

    return send


def _paced(send: Callable[[int], object], rate: float, seconds: float) -> Sent:
    clock = time.monotonic
    sent, number = Sent(), 0
    sent.begin = due_since = clock()
    stop = sent.begin + seconds
    while (now := clock()) < stop:
        due = int((now - due_since) * rate)
        if due - number > rate * _MOST_BEHIND + 1:
            due_since += (due - number) / rate - _MOST_BEHIND
            due = number + int(rate * _MOST_BEHIND) + 1
        for each in range(number, due):
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                send(each)
                sent.sent += 1
        number = max(number, due)
        time.sleep(_PAUSE)
    sent.end = clock()
    return sent


def swarm(given: argparse.Namespace) -> Sent:
    """
    Attack over TCP.
    """
    behaviour = BEHAVIOURS[given.kind]
    with Swarm(ADDRESS, given.port, given.connections, behaviour(packets(given.packets), given.each)) as attack:
        sent = Sent(begin=time.monotonic())
        attack.run(given.seconds)
        sent.end = time.monotonic()
    sent.sent, sent.answers, sent.connections = attack.sent, attack.answers, attack.connected
    return sent


def main() -> None:
    """
    Attack a forwarder on 127.0.0.1.
    """
    parser = argparse.ArgumentParser(
        prog="benchmarks.attack_sender", description=(__doc__ or "").split("\n\n")[0].strip()
    )
    parser.add_argument("kind", choices=["flood", *BEHAVIOURS])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--packets", choices=KINDS, default="some")
    parser.add_argument("--rate", type=float, default=1000.0, help="datagrams a second")
    parser.add_argument("--spoofed", action="store_true", help="each datagram from another address")
    parser.add_argument("--connections", type=int, default=250)
    parser.add_argument("--each", type=int, default=128, help="queries outstanding on each connection, or in all")
    given = parser.parse_args()
    gc.disable()
    if given.kind == "flood":
        made = packets(given.packets)
        sent = flood(given.port, made, given.rate, given.seconds, is_spoofed=given.spoofed)
    else:
        sent = swarm(given)
    sys.stdout.write(json.dumps(asdict(sent)) + "\n")


if __name__ == "__main__":
    main()
