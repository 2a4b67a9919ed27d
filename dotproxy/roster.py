"""
The upstreams by their places.

Decides which place an upstream has, and when it may be another's: orders, and what questions remember of whom they
were asked of, are places, so that one who has left keeps its own until nobody can remember it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dotproxy.neighbours import Upstream
from dotproxy.policy.health import Tier

#: No question is remembered for so long, in seconds, by whatever settings.
_REMEMBERED = 120.0


class Roster:
    """
    ``everybody`` is by place, those who have left included, and ``labels`` their names; ``places`` of those who are
    asked, in the operator's order.
    """

    __slots__ = ("_left", "everybody", "labels", "places")

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.everybody = list(upstreams)
        self.labels = [upstream.label for upstream in upstreams]
        self.places: tuple[int, ...] = tuple(range(len(upstreams)))
        self._left: dict[int, float] = {}

    @property
    def asked(self) -> list[Upstream]:
        """
        Those who are asked.
        """
        return [self.everybody[place] for place in self.places]

    @property
    def is_anyone_up(self) -> bool:
        """
        Whether one of them is not down.
        """
        return any(upstream.tier < Tier.DOWN for upstream in self.asked)

    def tier_of(self, place: int) -> int:
        """
        Return what is to be thought of one.
        """
        return self.everybody[place].tier

    def change(self, upstreams: Sequence[Upstream], now: float) -> None:
        """
        Have these asked from now on.
        """
        places = [self._place_of(upstream, now) for upstream in upstreams]
        self._left.update({place: now for place in self.places if place not in places})
        for place in places:
            self._left.pop(place, None)
        self.places = tuple(places)

    def _place_of(self, upstream: Upstream, now: float) -> int:
        if upstream in self.everybody:
            return self.everybody.index(upstream)
        for place, since in self._left.items():
            if now - since > _REMEMBERED:
                del self._left[place]
                self.everybody[place], self.labels[place] = upstream, upstream.label
                return place
        self.everybody.append(upstream)
        self.labels.append(upstream.label)
        return len(self.everybody) - 1
