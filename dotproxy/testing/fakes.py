"""
Fakes of an upstream and a listener, for tests of a forwarder.

Decides nothing: records calls, and responds when a test says so.
"""

from __future__ import annotations

from typing import Any

from dotproxy.errors import UpstreamError
from dotproxy.policy.client import Client, ClientMessage
from dotproxy.policy.latency import Latency
from dotproxy.policy.quarantine import Quarantine
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.counters import TCP, UDP, UpstreamCounters
from dotproxy.wire.message import QueryInfo


class ScriptedUpstream:
    """
    An upstream in whose place a test answers.

    ``asked`` holds the questions that were asked and not yet answered or failed, oldest first;
    ``suspicions`` counts how often it was suspected, ``is_lively`` is what it says to that;
    ``times`` and ``useless`` are what it was told of its answers.  ``isolations`` holds why each question of ``asked``
    was to be sent apart.
    """

    observer: Any

    def __init__(self, label: str = "scripted", *, tier: int = 0) -> None:
        self.label = label
        self.tier = tier
        self.latency = Latency()
        self.counters = UpstreamCounters()
        self.times: list[float] = []
        self.useless = 0
        self.quarantine = Quarantine()
        self.asked: list[tuple[Any, bytes, int]] = []
        self.isolations: list[Isolation] = []
        self.batches: list[int] = []
        self.suspicions = 0
        self.is_lively = False

    def bind(self, observer: Any) -> None:
        """
        Called by the forwarder.
        """
        self.observer = observer

    def send(self, questions: list[tuple[Any, bytes, int]]) -> None:
        """
        Called by the forwarder.
        """
        self.batches.append(len(questions))
        self.asked += questions
        self.isolations += [Isolation.NONE] * len(questions)

    def send_isolated(
        self, questions: list[tuple[Any, bytes, int]], isolation: Isolation, *, is_background: bool
    ) -> None:
        """
        Called by the forwarder.
        """
        self.send(questions)
        self.isolations[-len(questions) :] = [isolation] * len(questions)

    def record_latency(self, seconds: float, answers: int) -> None:
        """
        Called by the forwarder.
        """
        self.times.append(seconds)

    def record_late(self, questions: int) -> None:
        """
        Called by the forwarder.
        """
        self.useless += questions

    def watch(self, since: float, seconds: float) -> None:
        """
        Called by the forwarder.
        """

    def check_liveness(self, since: float) -> bool:
        """
        Called by the forwarder.
        """
        self.suspicions += 1
        return self.is_lively

    def answer(self, reply: bytes, index: int = 0) -> None:
        """
        Answer the question at ``index`` with ``reply``.
        """
        token, _, _ = self.asked.pop(index)
        self.isolations.pop(index)
        self.observer.replies_received(self, [(token, reply)])

    def fail(self, error: UpstreamError, *, is_final: bool = False) -> None:
        """
        Fail everything that was asked.
        """
        asked, self.asked, self.isolations = self.asked, [], []
        error.upstream = self.label
        self.observer.failed(self, [token for token, _, _ in asked], error, is_final=is_final)


class RecordingListener:
    """
    A listener that keeps the answers: ``answers`` holds (octets, client), ``builders`` what was sent of longer ones,
    ``sources`` those that are under way.  ``options`` is what it says for ``options_for``.
    """

    def __init__(self, *, is_stream: bool = False) -> None:
        self.is_stream = self.takes_transfers = is_stream
        self.kind = TCP if is_stream else UDP
        self.answers: list[ClientMessage] = []
        self.batches: list[int] = []
        self.parts: list[bytes] = []
        self.sources: list[Any] = []
        self.options = b""

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Called by the forwarder.
        """
        return self.options

    def send_parts(self, parts: list[bytes], source: Any) -> None:
        """
        Called by a transfer.
        """
        self.parts += parts

    def begin_parts(self, source: Any) -> None:
        """
        Called by a transfer.
        """
        self.sources.append(source)

    def end_parts(self, source: Any) -> None:
        """
        Called by a transfer.
        """
        self.sources.remove(source)

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Called by the forwarder.
        """
        self.batches.append(len(answers))
        self.answers += answers
