"""
A flood of changed messages through a whole proxy in memory: python -m fuzz.flood --packets 2000000 --seed 1

Decides what is sent, and what must hold all the while: no exception; one answer to each query that must have one, and
none to others; nothing that grows beyond its bound, and no more memory at the end than after a tenth of the way.  The
listeners, the forwarder, the cache, two upstreams with their pools and transfers are the proxy's own; sockets, TLS and
time are not.  A run depends on nothing but its seed: compiled and interpreted print the same digest.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.names import dns as twisted_dns

import dotproxy.wire.message as compiled_or_not
from dotproxy.cache.failures import MAX_ENTRIES as MOST_FAILURES
from dotproxy.cache.packets import MAX_ENTRIES as MOST_REMEMBERED
from dotproxy.cache.responses import CacheSettings, ResponseCache
from dotproxy.downstream.in_process import ForwarderResolver
from dotproxy.downstream.server_factory import ListenerFactory
from dotproxy.policy.client_shares import MAX_HOSTS, MAX_IN_FLIGHT_OCTETS, MAX_PREFIXES
from dotproxy.policy.quarantine import MAX_ENTRIES
from dotproxy.policy.selection import Order
from dotproxy.telemetry.events import Events
from dotproxy.upstream.connection import DotConnection
from dotproxy.upstream.isolated_connections import MAX_CONNECTIONS
from dotproxy.upstream.pool import MAX_STANDING
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.zone_transfer import Transfers, TransferSession, TransferSettings
from dotproxy.wire.framing import frame
from dotproxy.wire.message import QueryInfo, question_of
from dotproxy.wire.rewrite import EdnsRewriter
from fuzz.clients import TRANSFERS, Checks, Datagrams, Stream, must_be_answered
from fuzz.corpora import exchanges, singles
from fuzz.mutate import mutated
from fuzz.path import build_forwarder
from fuzz.servers import Server, question_in

MAX_OUTSTANDING = 2000
CACHED = 3000
CACHED_OCTETS = 4 << 20
TCP_CONNECTIONS = 30
BATCH = 64

#: Memory may grow by so much from a tenth of the way to the end, in octets and as a share.
GROWTH = 12 << 20
GROWTH_SHARE = 0.1


class World:
    """
    A proxy, its clients and its upstreams' servers; ``packets`` counts messages from clients and from servers.
    """

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)  # noqa: S311 (the same each time is what is meant)
        self.clock = clock = Clock()
        self.checks = Checks()
        captured = exchanges()
        self.queries = [query for query, _ in captured]
        self.others = singles()
        self.asked = 0
        replies = _readable(captured)
        addresses = [IPv4Address("TCP", f"192.0.2.{number}", 853) for number in (1, 2)]
        self.servers = [Server(clock, chance, replies, address) for address in addresses]
        self.upstreams = [self._build_upstream(server) for server in self.servers]
        self.transfers = Transfers(
            TransferSettings(self.upstreams, EdnsRewriter(), 4), clock=clock, random_octets=chance.randbytes
        )
        self.cache = ResponseCache(CacheSettings(stale_for=600.0), entries=CACHED, octets=CACHED_OCTETS)
        self.forwarder = build_forwarder(
            self.upstreams,
            clock,
            ordering=self._order,
            transfers=self.transfers,
            cache=self.cache,
            networks=[ip_network("127.0.0.0/8")],
            max_outstanding=MAX_OUTSTANDING,
        )
        self.resolver = ForwarderResolver(self.forwarder, clock)
        self.datagrams = Datagrams(self.checks)
        self.factory = ListenerFactory(
            self.forwarder,
            self.resolver,
            clock=clock,
            now=clock.seconds,
            idle_timeout=10.0,
            max_connections=TCP_CONNECTIONS,
            max_outstanding=128,
            share_of=lambda host: self.forwarder.shares.share_of(host, clock.seconds()),
        )
        self.streams: list[Stream] = []
        self.looked_up = 0
        self.failures: list[str] = []
        for service in (*self.upstreams, self.transfers):
            service.startService()

    @property
    def packets(self) -> int:
        """
        How many messages the proxy was sent.
        """
        return self.asked + sum(server.said for server in self.servers)

    def note(self, event: LogEvent) -> None:
        """
        Keep what was logged of an exception, or as an error; called by Twisted's logger.
        """
        if "log_failure" in event:
            self.failures.append(event["log_failure"].getTraceback())
        elif event.get("log_level") in (LogLevel.error, LogLevel.critical):
            self.failures.append(formatEvent(event))

    def step(self) -> None:
        """
        Send a few things, bring answers, let a moment pass.
        """
        chance = self.chance
        batch = [self._query() for _ in range(chance.randrange(1, BATCH + 1))]
        self.asked += len(batch)
        self.forwarder.handle_batch(self.datagrams, [(query, self.datagrams.client_of(query)) for query in batch])
        if chance.random() < 0.3:
            self._stream_step()
        if chance.random() < 0.02:
            self._look_up()
        if chance.random() < 0.9:
            self._deliver()
        self.clock.advance(chance.choice((0.0005, 0.002, 0.005, 0.02)) if chance.random() < 0.998 else 2.0)
        if chance.random() < 0.0005:
            self._rare()

    def settle(self) -> None:
        """
        Send nothing more until everything must be answered, and check that it is.
        """
        for _ in range(140):
            for stream in tuple(self.streams):
                stream.read_again()
                stream.send(ends=False)
            self._deliver()
            self.clock.advance(0.1)
        assert not self.failures, f"{len(self.failures)} errors were logged, the first: {self.failures[0]}"
        assert not self.datagrams.pending, f"{len(self.datagrams.pending)} queries over UDP without an answer"
        assert not self.forwarder.shares.octets, "octets are in flight, and no query"
        assert not self.looked_up, f"{self.looked_up} lookups without an end"
        for stream in self.streams:
            if not stream.is_over and not stream.babbles and not stream.is_held:
                owed = [query for query in stream.expected.values() if query[-4:-2] not in TRANSFERS]
                assert not owed, f"{len(owed)} queries over TCP without an answer"
        self.streams = [stream for stream in self.streams if not stream.is_over]

    def tables(self) -> dict[str, tuple[int, int]]:
        """
        Return how long each table is, and how long it may be.
        """
        forwarder: Any = self.forwarder
        found: dict[str, tuple[int, int]] = {
            "cache": (len(self.cache), CACHED),
            "cache octets": (self.cache.octets, CACHED_OCTETS),
            "packet cache": (sum(map(len, forwarder._packets._entries)), 3 * (MOST_REMEMBERED + BATCH)),
            "failures": (len(forwarder.failures), MOST_FAILURES),
            "in flight": (len(forwarder.dispatcher), MAX_OUTSTANDING + CACHED + MOST_FAILURES),
            "clients waiting": (forwarder.outstanding, MAX_OUTSTANDING),
            "client addresses": (len(forwarder.shares.by_host), MAX_HOSTS),
            "client shares": (len(forwarder.shares), MAX_PREFIXES),
            "octets in flight": (forwarder.shares.octets, MAX_IN_FLIGHT_OCTETS),
            "joined": (len(forwarder._joined), MAX_OUTSTANDING + CACHED + MOST_FAILURES),
            "TCP clients": (len(self.factory.connections), TCP_CONNECTIONS + 1),
            "transfers": (len(self.transfers._under_way), 4),
            "timers": (len(self.clock.getDelayedCalls()), 1000),
        }
        for upstream in self.upstreams:
            found |= _tables_of(upstream)
        return found

    def stop(self) -> None:
        """
        End it; whoever waits is answered.
        """
        for stream in self.streams:
            stream.end()
        self.forwarder.stop()
        for service in (*self.upstreams, self.transfers):
            service.stopService()
        self.clock.pump([0.5] * 20)

    def _build_upstream(self, server: Any) -> Upstream:
        return Upstream(
            f"tls://{server.address.host}",
            server,
            UpstreamSettings(),
            runtime=Runtime(self.clock, self.clock.seconds, self.chance.randbytes, self.chance.random),
            events=Events(),
        )

    def _order(self, query: bytes, info: QueryInfo) -> Order:
        return (0, 1)

    def _query(self) -> bytes:
        """
        Return what a client sends next.
        """
        chance = self.chance
        what = chance.random()
        if what < 0.02:
            return chance.randbytes(chance.choice((0, 2, 11, 12, 40, 512)))
        query = chance.choice(self.queries) if what < 0.9 else chance.choice(self.others)
        if what > 0.5:
            query = mutated(query, chance)
        elif what > 0.3 and len(query) > 12 and query[12] < 0x40:
            query = query[:12] + b"\x06" + b"%06x" % chance.randrange(1 << 24) + query[12:]
        return chance.randbytes(2) + query[2:]

    def _stream_step(self) -> None:
        """
        Have a TCP client come, ask, read, or leave.
        """
        chance = self.chance
        self.streams = [stream for stream in self.streams if not stream.is_over]
        if len(self.streams) < TCP_CONNECTIONS and chance.random() < 0.5:
            stream = Stream(self.checks, chance, babbles=chance.random() < 0.2)
            protocol = self.factory.buildProtocol(None)
            if protocol is not None:
                stream.connect(protocol)
                self.streams.append(stream)
        if not self.streams:
            return
        stream = chance.choice(self.streams)
        if chance.random() < 0.05:
            stream.end()
            return
        stream.read_again()
        if not stream.is_done and len(stream.expected) < 1000:
            self._ask_over(stream)
        stream.send(ends=chance.random() < 0.1)

    def _ask_over(self, stream: Stream) -> None:
        chance = self.chance
        for _ in range(chance.choice((1, 5, 40))):
            query = self._query()
            ident = chance.randbytes(2)
            if ident in stream.expected:
                continue
            query = ident + query[2:] if len(query) > 1 else query
            self.asked += 1
            if stream.babbles:
                stream.unsent += mutated(frame(query), chance)
                continue
            if must_be_answered(query):
                # A query is known by its question here; what is behind that is not asked again.
                end = question_of(query)
                stream.expected[ident] = query[:end] if end and query[end - 4 : end - 2] in TRANSFERS else query
            stream.unsent += frame(query)

    def _look_up(self) -> None:
        name = b".".join((b"%x" % self.chance.randrange(300), b"fuzz.example"))
        self.looked_up += 1

        def ended(_: object) -> None:
            self.looked_up -= 1

        self.resolver.query(twisted_dns.Query(name, self.chance.choice((1, 16, 28, 33)))).addBoth(ended)

    def _deliver(self) -> None:
        for server in self.servers:
            server.deliver()

    def _rare(self) -> None:
        """
        What an operator or the network does once in a while.
        """
        match self.chance.randrange(4):
            case 0:
                for upstream in self.upstreams:
                    upstream.network_moved()
                self.forwarder.network_moved()
            case 1:
                self.cache.flush()
                self.forwarder.cache_flushed()
            case 2:
                self.upstreams[0].renew()
            case _:
                for connection in tuple(self.servers[0].connections):
                    connection.abortConnection()


def _readable(captured: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """
    Return the responses that dnspython can read and that were not truncated, by their questions.
    """
    found: dict[bytes, bytes] = {}
    for _, response in captured:
        if not response[2] & 2 and question_of(response):
            try:
                dns.message.from_wire(response)
            except dns.exception.DNSException:
                continue
            found[question_in(response)] = response
    return found


def _tables_of(upstream: Any) -> dict[str, tuple[int, int]]:
    quarantine, pool, apart = upstream.quarantine, upstream._pool, upstream._isolated
    name = upstream.label
    return {
        f"{name} waiting": (len(upstream._waiting), 2 * MAX_OUTSTANDING),
        f"{name} outstanding": (upstream.outstanding, 4 * MAX_OUTSTANDING),
        f"{name} quarantine": (
            max(map(len, (quarantine._questions, quarantine._zones, quarantine._counts))),
            MAX_ENTRIES,
        ),
        f"{name} connections": (pool.connections, MAX_STANDING),
        f"{name} pool timers": (len(pool.timers), 200),
        f"{name} apart": (len(apart._uses), MAX_CONNECTIONS),
        f"{name} apart waiting": (len(apart._waiting) + len(apart._background), 2 * MAX_OUTSTANDING + 200),
    }


def resident() -> int:
    """
    Return the memory this process takes, in octets.
    """
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


class Watch:
    """
    Looks at tables and memory as a run goes on; ``most`` is the longest each table was.
    """

    def __init__(self) -> None:
        self.most: dict[str, tuple[int, int]] = {}
        self._before = 0

    def look(self, world: World) -> None:
        """
        Note how long the tables are; none may be longer than its bound.
        """
        for name, (length, bound) in world.tables().items():
            assert length <= bound, f"{name}: {length}, {bound} are allowed"
            self.most[name] = (max(length, self.most.get(name, (0, 0))[0]), bound)

    def weigh(self, tenth: int) -> int:
        """
        Return the memory after so many tenths of the run, which may not grow after the first.
        """
        weight = resident()
        if tenth == 1:
            self._before = weight
        elif tenth > 1:
            limit = int(self._before * (1 + GROWTH_SHARE)) + GROWTH
            assert weight <= limit, f"{weight >> 20} MiB after {tenth} tenths, {limit >> 20} MiB are allowed"
        return weight


@contextmanager
def _numbered(*classes: type) -> Iterator[None]:
    """
    Let objects have numbers as hashes: those of places in memory, by which sets are in order, differ from run to run.
    """
    numbers = count()

    def number(one: Any) -> int:
        found: int = vars(one).setdefault("_number", next(numbers))
        return found

    for one in classes:
        one.__hash__ = number  # type: ignore[assignment]
    try:
        yield
    finally:
        for one in classes:
            del one.__hash__


def run(packets: int, seed: int) -> list[str]:
    """
    Send so many; return what there is to tell, the digest of all answers last.
    """
    world, watch = World(seed), Watch()
    observer: Any = world.note
    globalLogPublisher.addObserver(observer)
    try:
        with _numbered(DotConnection, TransferSession):
            weights, seconds = _go(world, watch, packets)
    finally:
        globalLogPublisher.removeObserver(observer)
    checks = world.checks
    how = "interpreted" if compiled_or_not.__file__.endswith(".py") else "compiled"
    return [
        f"{how}: {world.packets} packets, {world.asked} of them from clients",
        f"{checks.answers} answers, of which dnspython has read {checks.parsed}",
        f"{world.packets / seconds:.0f} packets/s, memory after each tenth in MiB: {[w >> 20 for w in weights]}",
        *(f"  {name}: {length} of {bound}" for name, (length, bound) in watch.most.items()),
        f"seed {seed}, digest of all answers {checks.digest.hexdigest()}",
    ]


def _go(world: World, watch: Watch, packets: int) -> tuple[list[int], float]:
    """
    Send so many packets; return the memory after each tenth, and how long it took, in seconds.
    """
    began = time.perf_counter()
    weights: list[int] = []
    for tenth in range(1, 11):
        while world.packets < packets * tenth // 10:
            for _ in range(20):
                world.step()
            watch.look(world)
        world.settle()
        weights.append(watch.weigh(tenth))
    seconds = time.perf_counter() - began
    world.stop()
    assert not world.failures, world.failures[0]
    return weights, seconds


def main(arguments: list[str]) -> int:
    """
    Run it, with hashes that are the same each time: the cache's memory of what it threw out depends on them.
    """
    parser = argparse.ArgumentParser(prog="python -m fuzz.flood", description="Flood a proxy in memory.")
    parser.add_argument("--packets", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(  # noqa: S606 (the same program again)
            sys.executable, [sys.executable, "-m", "fuzz.flood", *arguments], os.environ | {"PYTHONHASHSEED": "0"}
        )
    print(*run(given.packets, given.seed), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
