"""
How many questions a server answers over one connection, if it is a server that counts them.

Decides a number from how connections ended: three in a row that ended, or fell silent, after about as many answers.
"""

from __future__ import annotations

from collections.abc import Callable

#: So many endings that are alike make a rule.
_ALIKE = 3

#: A server that takes more than this does not need to be humoured.
_MOST = 500


class Quota:
    """
    For one upstream; ``limit`` is None as long as no rule is known, and ``changed`` is told of each other one.
    """

    __slots__ = ("_changed", "_seen", "limit")

    def __init__(self, changed: Callable[[int | None], None] = lambda limit: None) -> None:
        self._seen: list[int] = []
        self._changed = changed
        self.limit: int | None = None

    def ended(self, answers: int) -> None:
        """
        A connection ended by the server's doing, under questions or right after an answer.
        """
        self._seen = [*self._seen, answers][-_ALIKE:]
        low, high = min(self._seen), max(self._seen)
        is_rule = len(self._seen) == _ALIKE and 0 < low <= _MOST and high - low <= max(1, low // 10)
        self._set(low if is_rule else None)

    def forget(self) -> None:
        """
        Forget what was learned: a question has turned out to be what ends connections.
        """
        self._seen.clear()
        self._set(None)

    def learn(self, limit: int | None) -> None:
        """
        Take over what was learned elsewhere.
        """
        self._seen = [] if limit is None else [limit] * _ALIKE
        self.limit = limit

    def _set(self, limit: int | None) -> None:
        if limit != self.limit:
            self.limit = limit
            self._changed(limit)
