"""
Findings that workers share: upstreams that failed, queries that fail, questions that end connections.

Decides which findings are sent, and their form (JSON lists that begin with a kind).  Findings are hints: a lost one
costs a worker only what it would cost a single process to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from dotproxy.cache.failures import FailureCache
from dotproxy.errors import Incompatible, Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.quarantine import Quarantine
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.parsed_response import ParsedResponse

#: Findings of this interval, in seconds, are sent in one message.
_BATCH_INTERVAL = 0.01

#: Findings in one message at most, hence 2,000 a second: a flood of failing names must not occupy the supervisor.
MAX_BATCH = 20

_ERRORS: dict[str, type[UpstreamError]] = {
    kind.__name__: kind for kind in (Unreachable, Untrusted, Incompatible, Timeout)
}

#: One finding, as JSON: its kind, then the fields of that kind.
Finding = Sequence[object]


class LearningUpstream(Protocol):
    """
    An upstream that takes over findings of other workers.
    """

    label: str
    quarantine: Quarantine

    @property
    def per_connection_limit(self) -> PerConnectionLimit:
        """
        How many queries one connection to it carries.
        """

    def learn_down(self, error: UpstreamError) -> None:
        """
        Treat it as down: another worker could not connect.
        """

    def learn_up(self) -> None:
        """
        Treat it as up: another worker is connected.
        """


class SharedEvents(LoggedEvents):
    """
    Events that are logged, and of which findings are sent to the other workers.

    ``send`` sends a batch.
    """

    def __init__(self, send: Callable[[list[Finding]], object], *, debug: bool, clock: IReactorTime) -> None:
        super().__init__(debug=debug, clock=clock)
        self._send = send
        self._reactor = clock
        self._findings: list[Finding] = []

    def dial_failed(self, upstream: str, error: UpstreamError) -> None:
        """
        Share that an upstream could not be connected to.
        """
        self._add(["down", upstream, type(error).__name__, error.phase, error.reason])

    def upstream_came_up(self, upstream: str, seconds: float, failures: int) -> None:
        """
        Share that an upstream works again.
        """
        super().upstream_came_up(upstream, seconds, failures)
        self._add(["up", upstream])

    def question_ended_connection(self, upstream: str, question: bytes) -> None:
        """
        Share a question that ends connections.
        """
        self._add(["ends", upstream, question.hex()])

    def query_limit_changed(self, upstream: str, limit: int | None) -> None:
        """
        Share how many queries one connection carries.
        """
        self._add(["limit", upstream, limit])

    def question_failed(self, key: bytes, failure: object) -> None:
        """
        Share a failed query.
        """
        if isinstance(failure, ParsedResponse):
            self._add(
                [
                    "failed",
                    key.hex(),
                    failure.head.hex(),
                    failure.extended_rcode,
                    failure.options.hex(),
                    failure.question_end,
                ]
            )
        elif isinstance(failure, ExtendedError):
            self._add(["failed", key.hex(), *failure])

    def question_recovered(self, key: bytes) -> None:
        """
        Share that a failed query was answered.
        """
        self._add(["recovered", key.hex()])

    def _add(self, finding: Finding) -> None:
        if not self._findings:
            self._reactor.callLater(_BATCH_INTERVAL, self._flush)
        if len(self._findings) < MAX_BATCH:
            self._findings.append(finding)

    def _flush(self) -> None:
        findings, self._findings = self._findings, []
        self._send(findings)


def learn(
    findings: Sequence[Finding],
    upstreams: Sequence[LearningUpstream],
    failures: FailureCache,
    *,
    monotonic: Callable[[], float],
    boottime: Callable[[], float],
) -> None:
    """
    Take over the findings of another worker; those about an upstream that is not among ``upstreams`` are ignored.
    """
    known = {upstream.label: upstream for upstream in upstreams}
    for finding in findings:
        match finding:
            case ["failed", str(key), *failure]:
                failures.learn(bytes.fromhex(key), _failure_of(failure), boottime())
            case ["recovered", str(key)]:
                failures.unlearn(bytes.fromhex(key))
            case [_, str(label), *_] if (upstream := known.get(label)) is not None:
                _learn_about(upstream, finding, monotonic())


def _learn_about(upstream: LearningUpstream, finding: Finding, monotonic: float) -> None:
    match finding:
        case ["down", _, str(name), str(phase), str(reason)]:
            upstream.learn_down(_ERRORS.get(name, Unreachable)(phase, reason, upstream.label))
        case ["up", _]:
            upstream.learn_up()
        case ["ends", _, str(question)]:
            upstream.quarantine.add(bytes.fromhex(question), monotonic)
        case ["limit", _, int() | None as limit]:
            upstream.per_connection_limit.learn(limit)


def _failure_of(fields: Sequence[object]) -> ParsedResponse | ExtendedError:
    """
    Return a failed query's response, or the reason why there was none.

    :raises ValueError: if it is neither.
    """
    match fields:
        case [int(code), str(text)]:
            return ExtendedError(code, text)
        case [str(head), int(extended), str(options), int(end)]:
            return ParsedResponse(bytes.fromhex(head), 0, b"", (), extended, bytes.fromhex(options), end)
    raise ValueError(f"not a failure: {fields!r}")
