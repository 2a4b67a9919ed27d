"""
The upstreams by slot, and which of them a query is sent to next.

Decides which slot an upstream has, and when a slot is reused: orders and queries refer to upstreams by slot, so the
slot of a removed upstream stays reserved until no query can refer to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dotproxy.forwarding.inflight import Query
from dotproxy.forwarding.interfaces import Upstream
from dotproxy.policy.health import Tier
from dotproxy.policy.quarantine import question_key
from dotproxy.policy.retry import Isolation, has_ended_enough, isolation_of, next_upstreams
from dotproxy.policy.selection import Order

#: The least time between two latency samples of an upstream, in seconds.
_SAMPLED = 0.005

#: How long the slot of a removed upstream stays reserved, in seconds: longer than any query timeout.
_REMEMBERED = 120.0


class _Sample:
    """
    When the upstream of a slot last got a latency sample, and how many responses came since.
    """

    __slots__ = ("responses", "told_at")

    def __init__(self) -> None:
        self.told_at = float("-inf")
        self.responses = 0


class UpstreamTable:
    """
    ``slots`` has upstreams by slot, removed ones included, ``labels`` their labels; ``active`` has the slots of those
    that queries are sent to, in the configured order.
    """

    __slots__ = ("_left", "_samples", "active", "labels", "slots")

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.slots = list(upstreams)
        self.labels = [upstream.label for upstream in upstreams]
        self.active: tuple[int, ...] = tuple(range(len(upstreams)))
        self._left: dict[int, float] = {}
        self._samples = [_Sample() for _ in upstreams]

    def __repr__(self) -> str:
        slots = ", ".join(
            f"{slot} {upstream.label}: {Tier(upstream.tier).name.lower() if slot in self.active else 'removed'}"
            for slot, upstream in enumerate(self.slots)
        )
        return f"<{type(self).__name__} {slots}>"

    @property
    def active_upstreams(self) -> list[Upstream]:
        """
        The upstreams that queries are sent to, in the configured order.
        """
        return [self.slots[slot] for slot in self.active]

    @property
    def is_anyone_up(self) -> bool:
        """
        Whether at least one active upstream is not down.
        """
        return any(upstream.tier < Tier.DOWN for upstream in self.active_upstreams)

    def tier_of(self, slot: int) -> int:
        """
        Return the ``Tier`` of the upstream in a slot.
        """
        return self.slots[slot].tier

    def choose(self, query: Query, responsive: Collection[int], at_once: int, now: float) -> tuple[int, ...]:
        """
        Return the slots to send a query to next, ``at_once`` of them the first time; none if no attempt is left.

        An upstream that still has the query is used again only if it is ``responsive``.  Upstreams that have the
        question in quarantine, since they close the connection on it, come last.
        """
        order: Order = query.order
        if has_ended_enough(order, query.attempts, query.given_up, query.lost_alone):
            return ()
        wary = [index for index in order if self.is_quarantined(query, index, now)]
        if wary and len(wary) < len(order):
            order = [index for index in order if index not in wary] + wary
        busy = [index for index in query.awaiting if index not in responsive]
        return next_upstreams(order, query.attempts, query.given_up, busy, self.tier_of, at_once)

    def is_quarantined(self, query: Query, index: int, now: float) -> bool:
        """
        Return whether an upstream has the question of a query in quarantine.
        """
        quarantine = self.slots[index].quarantine
        return quarantine.until > now and quarantine.contains(question_key(query.sent, query.info.question_end), now)

    def isolation_of(self, query: Query, index: int, now: float) -> Isolation:
        """
        Return on which connection to send a query to an upstream.
        """
        if query.lost_connections:
            return isolation_of(query.lost_connections, query.lost_alone, query.attempts.count(index))
        if self.is_quarantined(query, index, now):
            return Isolation.KNOWN
        return Isolation.UNUSUAL if query.is_unusual else Isolation.NONE

    def send_again(self, index: int, queries: list[Query], now: float) -> None:
        """
        Send queries to an upstream once more, each on a shared or an isolated connection, as it needs.
        """
        upstream = self.slots[index]
        questions: list[tuple[Query, bytes, int]] = []
        for query in queries:
            question = (query, query.sent, query.info.question_end)
            if isolation := self.isolation_of(query, index, now):
                is_background = query.is_unusual or isolation is Isolation.KNOWN
                upstream.send_isolated([question], isolation, is_background=is_background)
            else:
                questions.append(question)
        if questions:
            upstream.send(questions)

    def send_isolated(self, queries: list[tuple[int, Isolation, Query]]) -> None:
        """
        Send queries on connections of their own, each to an upstream; ordinary ones before background ones.
        """
        batches: dict[tuple[bool, int, Isolation], list[tuple[Query, bytes, int]]] = {}
        for index, isolation, query in queries:
            is_background = query.is_unusual or isolation is Isolation.KNOWN
            batch = batches.setdefault((is_background, index, isolation), [])
            batch.append((query, query.sent, query.info.question_end))
        for is_background, index, isolation in sorted(batches):
            batch = batches[is_background, index, isolation]
            self.slots[index].send_isolated(batch, isolation, is_background=is_background)

    def note_latency(self, index: int, now: float, seconds: float, responses: int) -> None:
        """
        Record a latency in seconds, and the number of responses since the last one; at most one sample in 5 ms.
        """
        sample = self._samples[index]
        sample.responses += responses
        if now - sample.told_at >= _SAMPLED:
            responses, sample.responses = sample.responses, 0
            sample.told_at = now
            self.slots[index].record_latency(seconds, responses)

    def replace(self, upstreams: Sequence[Upstream], now: float) -> None:
        """
        Send queries to these upstreams from now on.
        """
        slots = [self._slot_of(upstream, now) for upstream in upstreams]
        self._left.update({slot: now for slot in self.active if slot not in slots})
        for slot in slots:
            self._left.pop(slot, None)
        self.active = tuple(slots)

    def _slot_of(self, upstream: Upstream, now: float) -> int:
        if upstream in self.slots:
            return self.slots.index(upstream)
        for slot, since in self._left.items():
            if now - since > _REMEMBERED:
                del self._left[slot]
                self.slots[slot], self.labels[slot] = upstream, upstream.label
                return slot
        self.slots.append(upstream)
        self.labels.append(upstream.label)
        self._samples.append(_Sample())
        return len(self.slots) - 1
