"""
How queries that are kept apart are put together on connections.
"""

from collections import deque

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.retry import Isolation
from dotproxy.upstream.query_groups import QueryGroup, grouped, joined

from .scenes import make_question


def sizes(count: int, isolation: Isolation) -> list[int]:
    """
    Return how many queries are in each group.
    """
    groups = grouped([make_question(number) for number in range(count)], isolation, is_background=False)
    tokens = [question[0] for group in groups for question in group.queries]
    assert tokens == list(range(count)), tokens
    return [len(group.queries) for group in groups]


class GroupedTests(SynchronousTestCase):
    """
    How many share a connection.
    """

    def test_up_to_eight_lost_queries_are_sent_alone(self) -> None:
        """
        Queries lost with their connection are sent alone if they are eight at most.
        """
        self.assertEqual([], sizes(0, Isolation.LOST))
        self.assertEqual([1] * 8, sizes(8, Isolation.LOST))

    def test_more_than_eight_lost_queries_are_in_eight_groups(self) -> None:
        """
        They are sent in eight groups at most, in their order, none left out.
        """
        self.assertEqual([2, 2, 2, 2, 1], sizes(9, Isolation.LOST))
        self.assertEqual([2] * 8, sizes(16, Isolation.LOST))
        self.assertEqual([3, 3, 3, 3, 3, 2], sizes(17, Isolation.LOST))
        self.assertEqual([100] * 8, sizes(800, Isolation.LOST))

    def test_quarantined_unusual_and_last_attempt_queries_are_alone(self) -> None:
        """
        So are those known to end connections, and those that are unusual.
        """
        for isolation in (Isolation.LAST, Isolation.KNOWN, Isolation.UNUSUAL):
            self.assertEqual([1] * 20, sizes(20, isolation), isolation)

    def test_group_has_its_kind_and_priority(self) -> None:
        """
        Its kind, and whether it goes after the others.
        """
        for is_background in (False, True):
            (group,) = grouped([make_question(1)], Isolation.LAST, is_background=is_background)
            self.assertEqual((Isolation.LAST, is_background), (group.isolation, group.is_background))
            self.assertEqual(is_background, group.is_unusual)
        (group,) = grouped([make_question(1)], Isolation.KNOWN, is_background=True)
        self.assertFalse(group.is_unusual)


class JoinedTests(SynchronousTestCase):
    """
    Groups that wait and can go together.
    """

    def waiting(self, *kinds: Isolation) -> "deque[QueryGroup]":
        return deque(QueryGroup([make_question(number)], kind) for number, kind in enumerate(kinds))

    def test_unusual_queries_share_a_connection(self) -> None:
        """
        Adjacent ones in the queue go together, up to the first of another kind.
        """
        waiting = self.waiting(Isolation.UNUSUAL, Isolation.UNUSUAL, Isolation.KNOWN, Isolation.UNUSUAL)
        self.assertEqual([0, 1], [question[0] for question in joined(waiting).queries])
        self.assertEqual([2], [question[0] for question in joined(waiting).queries])
        self.assertEqual([3], [question[0] for question in joined(waiting).queries])
        self.assertFalse(waiting)

    def test_at_most_sixteen_unusual_queries_share_a_connection(self) -> None:
        """
        16 unusual queries share one connection, the 17th waits for the next one.
        """
        waiting = self.waiting(*[Isolation.UNUSUAL] * 17)
        self.assertEqual(16, len(joined(waiting).queries))
        self.assertEqual(1, len(waiting))

    def test_quarantined_queries_share_no_connection(self) -> None:
        """
        A question known to end connections shares none, even with unusual ones.
        """
        waiting = self.waiting(Isolation.KNOWN, Isolation.KNOWN, Isolation.LOST, Isolation.LOST)
        self.assertEqual([1, 1, 1, 1], [len(joined(waiting).queries) for _ in range(4)])
