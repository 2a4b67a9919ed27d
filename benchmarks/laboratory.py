"""
What all measurements share: a CA, upstreams, files of questions, and forwarders that live as long as one measurement.

Decides which names are asked.  Those of the warm-up are never among those that are asked once.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Drive, drive, names, write_questions, zipf
from benchmarks.peers import Peer
from benchmarks.upstreams import NagleOff, NagleOn
from dotproxy.testing.certificates import Authority

#: Questions for names that are asked once: more than anybody answers in that time.
_MOST_A_SECOND = 130_000

_FEW = 1_000
_MANY = 100_000

#: Questions of the Zipf mix for each second that a measurement is to take: as many for everybody, so that everybody
#: finds as much.
_MIXED_A_SECOND = 60_000


@dataclass(frozen=True)
class Pace:
    """
    How long things may take: ``seconds`` of load each; ``starts`` a round; ``steps`` of ``step_seconds`` each when a
    highest rate is looked for.
    """

    seconds: float
    starts: int
    steps: int
    step_seconds: float


class Laboratory:
    """
    Lives in a folder; ``open`` starts the upstreams, and ends them.
    """

    def __init__(self, folder: Path, pace: Pace) -> None:
        self.pace = pace
        self._folder = folder
        self._numbers = itertools.count()
        authority = Authority()
        folder.chmod(0o755)  # some of them give root up before they read what is in it
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(authority.pem)
        certificate = authority.issue(["dot.test"])
        for name in ("nagle-on", "nagle-off"):
            (folder / name).mkdir()
        self.nagle_on = NagleOn(folder / "nagle-on", certificate)
        self.nagle_off = NagleOff(folder / "nagle-off", certificate)
        self.few = write_questions(folder / "few", names("few", _FEW))
        self.warm = write_questions(folder / "warm", names("warm", 5 * _FEW))
        self.unique = write_questions(folder / "unique", names("n", int(pace.seconds * _MOST_A_SECOND)))
        ranked = list(names("mix", _MANY))
        self.mix = write_questions(folder / "mix", zipf(ranked, int(pace.seconds * _MIXED_A_SECOND), seed=1))
        many = list(names("many", _MANY))
        self.many = write_questions(folder / "many", many)
        self.sample = write_questions(folder / "sample", random.Random(1).sample(many, _MANY // 20))

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """
        Have the upstreams run.
        """
        try:
            self.nagle_on.start()
            self.nagle_off.start()
            yield
        finally:
            self.nagle_on.stop()
            self.nagle_off.stop()

    def make(self, kind: type[Peer], upstream_port: int = 0) -> Peer:
        """
        Set a forwarder up, in front of the upstream that counts unless another is given.
        """
        folder = self._folder / f"{kind.__name__.lower()}{next(self._numbers)}"
        return kind(folder, self.ca_file, upstream_port or self.nagle_on.port)

    @contextlib.contextmanager
    def running(self, kind: type[Peer], upstream_port: int = 0) -> Iterator[Peer]:
        """
        Have a forwarder run, that has answered one question.
        """
        peer = self.make(kind, upstream_port)
        try:
            peer.start()
            yield peer
        finally:
            peer.stop()

    def warm_up(self, port: int, mode: str = "udp", clients: int = 4) -> None:
        """
        Let a forwarder meet the names that are asked again and again, and a few that are not asked any more.
        """
        for questions in (self.few, self.few, self.warm):
            drive(port, Drive(questions, 5.0, clients=clients, mode=mode, is_once=True))
