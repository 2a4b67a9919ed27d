"""
One attack on one forwarder: what was sent, what it took, and what the good client had of it.

Decides the order: upstreams and forwarder start, names are put into the cache, the good client asks for a second, the
attacker begins and ends, and the good client asks on until it is served as before, or until ``recovery`` is over.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.attack_good import ADDRESS, RATE, TRANSPORTS, Books, GoodClient, cached_names, normal_after
from benchmarks.attack_queries import Zone, fixed_name
from benchmarks.attack_sender import Sent
from benchmarks.bad_upstreams import MakeUpstream, Upstream
from benchmarks.bench import Bench
from benchmarks.forwarders import Forwarder
from benchmarks.load import is_right
from benchmarks.measures import cpu_seconds, processes
from benchmarks.peers import Peer
from dotproxy.testing.client import make_query
from dotproxy.wire.framing import frame
from tests.integration.programs import read_message

_PAGE = os.sysconf("SC_PAGE_SIZE")

#: How often the forwarder's memory is looked at, in seconds.
_SAMPLE = 0.05

#: How long the good client asks before the attacker is started, in seconds.
_BEFORE = 1.0

#: What an attacker may take beyond its time, to start and to close its connections.
_MORE = 20.0


class AttackUpstream(Upstream):
    """
    The upstream of which anything may be asked; it reads ``intake`` octets a second, or 0 for any number.
    """

    intake = 0

    def command(self) -> list[str]:
        """
        In the foreground, from this checkout.
        """
        line = [sys.executable, "-m", "benchmarks.attack_upstream", str(self.certificate), str(self.key)]
        return [*line, "--port", str(self.port), "--intake", str(self.intake)]

    def environment(self) -> dict[str, str]:
        """
        That in which ``benchmarks`` is found.
        """
        return super().environment() | {"PYTHONPATH": str(Path(__file__).parent.parent)}

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "ready" in self.said()

    def counts(self) -> dict[str, int]:
        """
        How many queries it received so far, by zone.
        """
        lines = [line for line in self.said().splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if lines else {}


class SlowUpstream(AttackUpstream):
    """
    The same behind a link of 80 Mbit/s.
    """

    intake = 10_000_000


@dataclass(frozen=True)
class Attack:
    """
    A row: ``sender`` are the arguments of the attacker; ``primed`` the names asked before, over TCP, with their types;
    ``zone`` that whose queries are counted at the upstream; ``share`` how much of the usual time it takes; others
    than one worker of dotproxy are attacked if it ``is_general``.
    """

    key: str
    title: str
    sender: tuple[str, ...] = ()
    via: tuple[str, ...] = ("udp",)
    primed: tuple[tuple[Zone, int], ...] = ()
    zone: Zone | None = None
    share: float = 1.0
    is_quick: bool = False
    is_general: bool = True
    upstreams: tuple[MakeUpstream, ...] = (AttackUpstream,)
    domain: str = "lab.example"
    is_good: Callable[[bytes], bool] = is_right


@dataclass
class Measured:
    """
    What came of it: ``books`` by the good client's transport with the queries that were sent during the attack; memory
        in octets; ``has_ended`` if the forwarder did; ``normal`` in seconds after the attack's end, None for never.
    """

    sent: Sent
    memory: int = 0
    peak: int = 0
    cpu: float = 0.0
    upstream: int | None = None
    has_ended: bool = False
    late: int = 0
    books: dict[str, Books] = field(default_factory=dict)
    normal: dict[str, float | None] = field(default_factory=dict)


class Attacker:
    """
    The process that attacks; without arguments nobody does, for as long.
    """

    def __init__(self, arguments: Sequence[str], port: int, seconds: float, priority: int) -> None:
        self._begin = time.monotonic()
        self._seconds = seconds
        self._sent: Sent | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if arguments:
            line = [sys.executable, "-m", "benchmarks.attack_sender", *arguments]
            line += ["--port", str(port), "--seconds", f"{seconds:g}"]
            root = str(Path(__file__).parent.parent)
            self._process = subprocess.Popen(line, stdout=subprocess.PIPE, cwd=root)
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, priority)  # it inherits ours

    @property
    def sent(self) -> Sent | None:
        """
        What it did, if it has ended.
        """
        if self._sent is None:
            self._sent = self._look()
        return self._sent

    def _look(self) -> Sent | None:
        now = time.monotonic()
        if self._process is None:
            return Sent(self._begin, now) if now - self._begin >= self._seconds else None
        if self._process.poll() is None:
            if now - self._begin > self._seconds + _MORE:
                self.stop()
                raise AssertionError("the attacker did not end")
            return None
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        if self._process.returncode:
            raise AssertionError(f"the attacker failed: {self._process.returncode}")
        return Sent(**json.loads(said))

    def stop(self) -> None:
        """
        End it.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Watch:
    """
    The forwarder's memory, looked at again and again.
    """

    def __init__(self, peer: Peer) -> None:
        self.pid = peer.pid
        self._files = [Path(f"/proc/{pid}/statm") for pid in processes(peer.pid)]
        self._due = 0.0
        self.now = self.peak = 0
        self.look()

    def look(self) -> None:
        """
        Look, if it is time.
        """
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _SAMPLE
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                self.now = sum(int(each.read_text().split()[1]) for each in self._files) * _PAGE
                self.peak = max(self.peak, self.now)


def measure(bench: Bench, forwarder: Forwarder, attack: Attack, seconds: float, recovery: float) -> Measured:
    """
    Attack a forwarder that was started for it.
    """
    upstreams = bench.make_upstreams(attack.upstreams)
    with bench.running(upstreams):
        peer = bench.make_peer(forwarder, upstreams)
        is_answering = len(upstreams) == 1
        with bench.running([peer], is_answering=is_answering), _important() as usual:
            _prime(peer.port, attack)
            clients = [TRANSPORTS[via](peer.port, attack.domain, attack.is_good) for via in attack.via]
            watch = Watch(peer)
            attacker = functools.partial(Attacker, attack.sender, peer.port, seconds * attack.share, usual)
            measured = _attacked(clients, watch, attacker, recovery)
            first = upstreams[0]
            for upstream in upstreams:
                assert upstream.process is not None
                if upstream.process.poll() is not None:
                    raise AssertionError(f"the upstream ended: {upstream.said()[-500:]}")
            assert peer.process is not None
            measured.has_ended = peer.process.poll() is not None
            if attack.zone is not None and isinstance(first, AttackUpstream):
                time.sleep(0.5)  # its counts are printed now and then
                measured.upstream = first.counts().get(attack.zone.value, 0)
            return measured


@contextlib.contextmanager
def _important() -> Iterator[int]:
    """
    The good client's process comes before all others, so that its times are the forwarder's; needs root.  Yields the
    priority of all others.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - 10)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield before
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
        if was_enabled:
            gc.enable()


def _prime(port: int, attack: Attack) -> None:
    """
    Put names into the cache, over TCP.
    """
    queries = [make_query(name, 1) for name in cached_names(attack.domain)]
    queries += [make_query(fixed_name(zone), rtype) for zone, rtype in attack.primed]
    for query in queries:
        with socket.socket() as client, contextlib.suppress(OSError, EOFError):
            client.settimeout(5)
            client.bind((ADDRESS, 0))
            client.connect(("127.0.0.1", port))
            client.sendall(frame(query))
            read_message(client)


def _attacked(clients: Sequence[GoodClient], watch: Watch, begin: Callable[[], Attacker], recovery: float) -> Measured:
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for client in clients:
            client.open(selector)
            stack.callback(client.close)
        before = time.monotonic() + _BEFORE
        _ask(selector, clients, watch, lambda: time.monotonic() >= before)
        measured = Measured(Sent(), memory=watch.now)
        watch.peak = watch.now
        cpu, begun = cpu_seconds(watch.pid), time.monotonic()
        attacker = begin()
        stack.callback(attacker.stop)
        _ask(selector, clients, watch, lambda: attacker.sent)
        assert attacker.sent is not None
        measured.sent = sent = attacker.sent
        measured.cpu = (cpu_seconds(watch.pid) - cpu) / (time.monotonic() - begun)

        abnormal = list(clients)

        def is_over() -> bool:
            for client in list(abnormal):
                if normal_after(client.asked[-3 * RATE :], sent.end) is not None:
                    abnormal.remove(client)
            return not abnormal or time.monotonic() > sent.end + recovery

        _ask(selector, clients, watch, is_over)
        asked = {client.via: len(client.asked) for client in clients}
        _ask(
            selector, clients, watch, lambda: not any(client.expire(time.monotonic()) for client in clients), more=False
        )
    measured.peak = watch.peak
    measured.late = sum(client.late for client in clients)
    for client in clients:
        if len(client.asked) != asked[client.via]:
            raise RuntimeError("queries were sent after the end")
        measured.books[client.via] = Books([each for each in client.asked if sent.begin <= each.sent < sent.end])
        measured.normal[client.via] = normal_after(client.asked, sent.end)
    return measured


def _ask(
    selector: selectors.BaseSelector,
    clients: Sequence[GoodClient],
    watch: Watch,
    is_over: Callable[[], Any],
    *,
    more: bool = True,
) -> None:
    """
    Let clients ask, and wait for responses, until it is over.
    """
    look = 0.0
    while True:
        now = time.monotonic()
        for client in clients:
            if more and client.due <= now:
                client.ask()
        watch.look()
        if now >= look:
            look = now + 0.05
            for client in clients:
                client.expire(now)
            if is_over():
                return
        pause = min([0.05, *(client.due - time.monotonic() for client in clients if more)])
        for key, _ in selector.select(max(0.0, pause)):
            key.data()
