"""
The upstreams by their places, and which of them a query is sent to next.

Decides which place an upstream has, and when it may be another's: orders, and what queries remember of whom they
were sent to, are places, so that one who has left keeps its own until nobody can remember it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dotproxy.forwarding.inflight import Query
from dotproxy.forwarding.interfaces import Upstream
from dotproxy.policy.health import Tier
from dotproxy.policy.quarantine import question_key
from dotproxy.policy.retry import Isolation, has_ended_enough, isolation_of, next_upstreams
from dotproxy.policy.selection import Order

#: How often an upstream is told its latency, in seconds.
_SAMPLED = 0.005

#: No question is remembered for so long, in seconds, by whatever settings.
_REMEMBERED = 120.0


class _Sample:
    """
    When the upstream of a slot was last told its latency, and how many responses came since.
    """

    __slots__ = ("responses", "told_at")

    def __init__(self) -> None:
        self.told_at = float("-inf")
        self.responses = 0


class UpstreamTable:
    """
    ``slots`` is by place, those who have left included, and ``labels`` their names; ``active`` of those who are
    asked, in the operator's order.
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
        Those who are asked.
        """
        return [self.slots[place] for place in self.active]

    @property
    def is_anyone_up(self) -> bool:
        """
        Whether one of them is not down.
        """
        return any(upstream.tier < Tier.DOWN for upstream in self.active_upstreams)

    def tier_of(self, place: int) -> int:
        """
        Return what is to be thought of one.
        """
        return self.slots[place].tier

    def choose(self, query: Query, responsive: Collection[int], at_once: int, now: float) -> tuple[int, ...]:
        """
        Return whom to send a query to next, ``at_once`` the first time; nobody, if all that may be asked have been.

        One that has the query already is asked again only if it is ``responsive``; one that is known to hang up at the
        question comes after those that are not.
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
        Return whether an upstream is known to hang up at the question of a query.
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
        Send these to an upstream once more, each on a connection of the kind it needs.
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
        Tell an upstream its latency, at most once in 5 ms, and how many responses came since the last time.
        """
        sample = self._samples[index]
        sample.responses += responses
        if now - sample.told_at >= _SAMPLED:
            responses, sample.responses = sample.responses, 0
            sample.told_at = now
            self.slots[index].record_latency(seconds, responses)

    def replace(self, upstreams: Sequence[Upstream], now: float) -> None:
        """
        Have these asked from now on.
        """
        places = [self._slot_of(upstream, now) for upstream in upstreams]
        self._left.update({place: now for place in self.active if place not in places})
        for place in places:
            self._left.pop(place, None)
        self.active = tuple(places)

    def _slot_of(self, upstream: Upstream, now: float) -> int:
        if upstream in self.slots:
            return self.slots.index(upstream)
        for place, since in self._left.items():
            if now - since > _REMEMBERED:
                del self._left[place]
                self.slots[place], self.labels[place] = upstream, upstream.label
                return place
        self.slots.append(upstream)
        self.labels.append(upstream.label)
        self._samples.append(_Sample())
        return len(self.slots) - 1
