"""
The measurements of a forwarder, each with a new process.

Decides which queries are sent and how, and which figures are computed.  A figure is missing (None) if the forwarder
sent wrong responses, or has nothing to measure.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import measures
from benchmarks.arrivals import Datagrams, Tls, latencies
from benchmarks.capacity import highest
from benchmarks.laboratory import Laboratory
from benchmarks.load import Drive, Driven, drive
from benchmarks.peers import Peer

Figures = dict[str, float | None]

#: The row for queries that are sent to the upstream without a forwarder.
DIRECTLY = "upstream alone"

#: Queries per second when latency is measured.
_RATE = 500

#: With a rate limit, a thread of dnsperf sleeps after each query and sends at most 20,000 a second.
_THREADS = 16


@dataclass(frozen=True)
class Scenario:
    """
    One measurement.

    ``columns``: the figures with their units, and the number of decimals of each.  ``most_rounds``: in how many rounds
    it is measured at most.  ``directly``: the same measurement without a forwarder.
    """

    key: str
    title: str
    about: str
    columns: dict[str, int]
    measure: Callable[[Laboratory, type[Peer]], Figures]
    directly: Callable[[Laboratory], Figures] | None = None
    most_rounds: int = 1000


LOADED = {"CPU µs/query": 1, "queries/s": 0, "lost": 0, "wrong": 0, "forwarded %": 1}


def loaded(
    clients: int, outstanding: int, names: str, mode: str = "udp"
) -> Callable[[Laboratory, type[Peer]], Figures]:
    """
    Return a measurement under full load: with cached names, with names that are queried once, or with the Zipf mix and
    an empty cache.
    """

    def measure(lab: Laboratory, kind: type[Peer]) -> Figures:
        with lab.running(kind) as peer:
            questions = {"few": lab.few, "unique": lab.unique, "mix": lab.mix}[names]
            given = Drive(questions, lab.pace.seconds, clients, outstanding, mode, is_once=names != "few")
            if names == "mix":
                given.seconds *= 4  # long enough for the whole mix
            else:
                lab.warm_up(peer.port, mode, clients)
            asked, spent = lab.nagle_on.asked(), measures.cpu_seconds(peer.pid)
            driven = drive(peer.port, given)
            spent = measures.cpu_seconds(peer.pid) - spent
            return _figures(driven, spent, lab.nagle_on.asked() - asked)

    return measure


def _figures(driven: Driven, spent: float, asked: int) -> Figures:
    figures: Figures = dict.fromkeys(LOADED)
    figures["lost"], figures["wrong"] = driven.lost, driven.wrong
    if driven.is_right:
        figures["CPU µs/query"] = spent / driven.completed * 1e6
        figures["queries/s"] = driven.rate
        figures["forwarded %"] = asked / driven.completed * 100
    else:
        print(f"    no good: {driven.rcodes}, {driven.lost} of {driven.sent} lost", flush=True)
    return figures


LATENCY = {f"{what} ms, Nagle {nagle}": 3 for nagle in ("on", "off") for what in ("p50", "p99")}


def latency(lab: Laboratory, kind: type[Peer]) -> Figures:
    """
    Measure the latency of forwarded queries at a low rate.
    """
    figures: Figures = {}
    for nagle, upstream in (("on", lab.nagle_on), ("off", lab.nagle_off)):
        with lab.running(kind, upstream.port) as peer:
            figures |= _latency(lab, Datagrams(peer.port), nagle)
    return figures


def latency_directly(lab: Laboratory) -> Figures:
    """
    Measure the latency of the upstream itself, over TLS.
    """
    return _latency(lab, Tls(lab.nagle_on.port, lab.ca_file), "on") | _latency(
        lab, Tls(lab.nagle_off.port, lab.ca_file), "off"
    )


def _latency(lab: Laboratory, client: Datagrams | Tls, nagle: str) -> Figures:
    took, without = latencies(client, _RATE, lab.pace.seconds, seed=1)
    if without > len(took) * 0.02:
        print(f"    no good: {without} of {len(took) + without} without a good answer", flush=True)
        return {}
    cuts = statistics.quantiles(took, n=100)
    return {f"p50 ms, Nagle {nagle}": cuts[49] * 1e3, f"p99 ms, Nagle {nagle}": cuts[98] * 1e3}


CAPACITY = {"cached, queries/s": 0, "forwarded, queries/s": 0}


def capacity(lab: Laboratory, kind: type[Peer]) -> Figures:
    """
    Measure the highest rate with less than 0.1 % of the queries lost, with one core for the forwarder alone.
    """
    figures: Figures = dict.fromkeys(CAPACITY)
    if (os.cpu_count() or 1) < 2:
        return figures
    everywhere = os.sched_getaffinity(0)
    measures.pin(lab.nagle_on.pid, {1})
    try:
        for column, names in zip(CAPACITY, ("few", "unique"), strict=True):
            with lab.running(kind) as peer:
                measures.pin(peer.pid, {0})
                lab.warm_up(peer.port)
                figures[column] = _capacity(lab, peer, names)
    finally:
        measures.pin(lab.nagle_on.pid, everywhere)
    return figures


def _capacity(lab: Laboratory, peer: Peer, names: str) -> int:
    questions = lab.few if names == "few" else lab.unique
    seconds = lab.pace.step_seconds

    def keeps_up(rate: int) -> bool:
        given = Drive(questions, seconds, _THREADS, 20_000, rate=rate, timeout=0.5, threads=_THREADS)
        driven = drive(peer.port, given, core=1)
        is_asked = driven.sent > 0.95 * rate * seconds
        print(f"    {rate}/s: sent {driven.sent / seconds:.0f}/s, {driven.lost} lost, {driven.rcodes}", flush=True)
        return is_asked and not driven.wrong and driven.lost < driven.sent / 1000

    busy = drive(peer.port, Drive(questions, seconds, is_once=names != "few"), core=1)
    return highest(keeps_up, busy.rate, lab.pace.steps)


MEMORY = {"MB after start": 1, "MB with 100,000 responses": 1, "cached %": 1, "octets/response": 0}


def memory(lab: Laboratory, kind: type[Peer]) -> Figures:
    """
    Measure the memory after the start and with 100,000 cached responses; a sample of them is queried again.
    """
    figures: Figures = dict.fromkeys(MEMORY)
    with lab.running(kind) as peer:
        time.sleep(0.5)
        idle = measures.resident(peer.pid)
        figures["MB after start"] = idle / 1e6
        if not kind.has_cache:
            return figures
        for _ in range(2):  # the second time, queries that were lost
            drive(peer.port, Drive(lab.many, 60.0, is_once=True))
        full = measures.resident(peer.pid)
        asked = lab.nagle_on.asked()
        driven = drive(peer.port, Drive(lab.sample, 60.0, is_once=True))
        held = 1 - (lab.nagle_on.asked() - asked) / max(1, driven.completed)
    figures["MB with 100,000 responses"] = full / 1e6
    figures["cached %"] = held * 100
    figures["octets/response"] = (full - idle) / (100_000 * held) if held else None
    return figures


START = {"ms": 0}


def start(lab: Laboratory, kind: type[Peer]) -> Figures:
    """
    Measure the time from the start of the process to its first response.
    """
    took = []
    for _ in range(lab.pace.starts):
        peer = lab.make(kind)
        try:
            took.append(peer.first_answer())
        finally:
            peer.stop()
    return {"ms": sorted(took)[len(took) // 2] * 1e3}


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "cached",
        "Cached responses over UDP",
        "1,000 names that are in the cache; 4 clients, 100 queries in flight.  stubby has no cache, so it forwards.",
        LOADED,
        loaded(4, 100, "few"),
    ),
    Scenario(
        "forwarded",
        "Forwarded queries over UDP",
        "Every name is queried once; 4 clients, 100 queries in flight.",
        LOADED,
        loaded(4, 100, "unique"),
    ),
    Scenario(
        "crowd",
        "Forwarded queries over UDP, 50 clients",
        "Every name is queried once; 50 clients, 500 queries in flight.",
        LOADED,
        loaded(50, 500, "unique"),
    ),
    Scenario(
        "mix",
        "Zipf mix",
        "100,000 names; the n-th most popular is queried 1/n as often as the first.  The same queries for each "
        "forwarder, which starts with an empty cache; 4 clients, 100 queries in flight.",
        LOADED,
        loaded(4, 100, "mix"),
    ),
    Scenario(
        "tcp-cached",
        "Cached responses over TCP",
        "1,000 names that are in the cache; 20 connections, 200 queries in flight.",
        LOADED,
        loaded(20, 200, "few", "tcp"),
    ),
    Scenario(
        "tcp-forwarded",
        "Forwarded queries over TCP",
        "Every name is queried once; 20 connections, 200 queries in flight.",
        LOADED,
        loaded(20, 200, "unique", "tcp"),
    ),
    Scenario(
        "latency",
        f"Latency of forwarded queries at {_RATE} queries/s",
        "Every name is queried once, by one client over UDP, at random times.  `upstream alone`: the upstream without "
        "a forwarder, over one TLS connection of a client that acknowledges every response at once.  With Nagle's "
        "algorithm on at the upstream (Unbound, which does not set TCP_NODELAY) and off (dnsdist, which does).",
        LATENCY,
        latency,
        latency_directly,
    ),
    Scenario(
        "capacity",
        "Highest rate with less than 0.1 % lost",
        "The forwarder has one core for itself; dnsperf and the upstream share the other, and limit the rates of the "
        "fastest forwarders.",
        CAPACITY,
        capacity,
        most_rounds=1,
    ),
    Scenario(
        "memory",
        "Memory",
        "Resident set, including pages of mapped files (such as Knot Resolver's cache).  `cached %`: how many of "
        "100,000 responses were cached, from a sample of 5,000 repeated queries.",
        MEMORY,
        memory,
        most_rounds=1,
    ),
    Scenario(
        "start",
        "Time from start to first response",
        "A query over UDP every 5 ms, until there is a response from the upstream.",
        START,
        start,
    ),
)
