"""
What one worker found out and the others should not have to: upstreams that failed, queries that fail, questions that
end connections.

Decides what is told and in which form.  It is advice: a message that is lost, or too many of them, cost what a single
process would have paid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime

from dotproxy.cache.failures import FailureCache
from dotproxy.errors import Incompatible, Timeout, Unreachable, Untrusted, UpstreamError
from dotproxy.policy.connection_limits import PerConnectionLimit
from dotproxy.policy.quarantine import Quarantine
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.parsed_response import Answer

#: What is found within this time, in seconds, is told together.
_GRAIN = 0.01

#: So many are told at once at most, 2,000 a second: a flood of failing names must not cost the supervisor a processor.
MAX_TOLD = 20

_ERRORS: dict[str, type[UpstreamError]] = {
    kind.__name__: kind for kind in (Unreachable, Untrusted, Incompatible, Timeout)
}

#: One finding: its kind, and what belongs to it, as JSON has it.
Finding = list[Any]


class LearningUpstream(Protocol):
    """
    An upstream that can be told what others found.
    """

    label: str
    quarantine: Quarantine

    @property
    def per_connection_limit(self) -> PerConnectionLimit:
        """
        How many queries it answers over one connection.
        """

    def learn_down(self, error: UpstreamError) -> None:
        """
        It has failed another worker.
        """

    def learn_up(self) -> None:
        """
        It works for another worker.
        """


class ToldEvents(LoggedEvents):
    """
    Events that are logged, and told to the other workers as far as these can use them.
    """

    def __init__(self, tell: Callable[[list[Finding]], object], *, debug: bool, clock: IReactorTime) -> None:
        super().__init__(debug=debug, clock=clock)
        self._tell = tell
        self._reactor = clock
        self._found: list[Finding] = []

    def dial_failed(self, upstream: str, error: UpstreamError) -> None:
        """
        Tell the others.
        """
        self._add(["down", upstream, type(error).__name__, error.phase, error.reason])

    def upstream_came_up(self, upstream: str, seconds: float, failures: int) -> None:
        """
        Tell the others.
        """
        super().upstream_came_up(upstream, seconds, failures)
        self._add(["up", upstream])

    def question_ended_connection(self, upstream: str, question: bytes) -> None:
        """
        Tell the others.
        """
        self._add(["ends", upstream, question.hex()])

    def query_limit_changed(self, upstream: str, limit: int | None) -> None:
        """
        Tell the others.
        """
        self._add(["limit", upstream, limit])

    def question_failed(self, key: bytes, failure: object) -> None:
        """
        Tell the others.
        """
        if isinstance(failure, Answer):
            self._add(["failed", key.hex(), failure.head.hex(), failure.extended, failure.options.hex(), failure.end])
        elif isinstance(failure, ExtendedError):
            self._add(["failed", key.hex(), *failure])

    def question_recovered(self, key: bytes) -> None:
        """
        Tell the others.
        """
        self._add(["recovered", key.hex()])

    def _add(self, finding: Finding) -> None:
        if not self._found:
            self._reactor.callLater(_GRAIN, self._flush)
        if len(self._found) < MAX_TOLD:
            self._found.append(finding)

    def _flush(self) -> None:
        found, self._found = self._found, []
        self._tell(found)


def learn(
    findings: list[Finding],
    upstreams: list[Any],
    failures: FailureCache,
    *,
    now: Callable[[], float],
    elapsed: Callable[[], float],
) -> None:
    """
    Take over what another worker found; what is about an upstream that is not among ours is passed over.
    """
    known: dict[str, LearningUpstream] = {upstream.label: upstream for upstream in upstreams}
    for kind, subject, *rest in findings:
        if kind == "failed":
            failures.learn(bytes.fromhex(subject), _failure_of(rest), elapsed())
        elif kind == "recovered":
            failures.unlearn(bytes.fromhex(subject))
        elif (upstream := known.get(subject)) is not None:
            _learn_of(upstream, kind, rest, now)


def _learn_of(upstream: LearningUpstream, kind: str, rest: list[Any], now: Callable[[], float]) -> None:
    if kind == "down":
        name, phase, reason = rest
        upstream.learn_down(_ERRORS.get(name, Unreachable)(phase, reason, upstream.label))
    elif kind == "up":
        upstream.learn_up()
    elif kind == "ends":
        upstream.quarantine.add(bytes.fromhex(rest[0]), now())
    elif kind == "limit":
        upstream.per_connection_limit.learn(rest[0])


def _failure_of(rest: list[Any]) -> Any:
    if len(rest) == len(ExtendedError._fields):
        return ExtendedError(*rest)
    head, extended, options, end = rest
    return Answer(bytes.fromhex(head), 0, b"", (), extended, bytes.fromhex(options), end)
