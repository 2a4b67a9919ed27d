"""
Servers that count the questions of a connection.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.quota import Quota


class QuotaTests(SynchronousTestCase):
    """
    What is learned of how connections end.
    """

    def limits(self, *answers: int) -> list[int | None]:
        """
        The limit after each ending.
        """
        quota = Quota()
        found: list[int | None] = []
        for count in answers:
            quota.ended(count)
            found.append(quota.limit)
        return found

    def test_three_alike(self) -> None:
        """
        Three endings after about as many answers are a rule, by the least of them; one that is other is its end.
        """
        self.assertEqual([None, None, 1, 1, None], self.limits(1, 1, 1, 2, 9))
        self.assertEqual([None, None, 95], self.limits(100, 95, 104))

    def test_no_rule(self) -> None:
        """
        Endings all over the place are none, nor are those without an answer, nor those after very many.
        """
        self.assertEqual([None] * 6, self.limits(1, 7, 3, 50, 2, 9))
        self.assertEqual([None] * 4, self.limits(0, 0, 0, 0))
        self.assertEqual([None] * 3, self.limits(1000, 1000, 1000))
