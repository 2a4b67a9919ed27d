"""
How much may be asked that no client asked for.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.budget import Budget


def spent(budget: Budget) -> int:
    """
    Return how much there is to spend, and spend it.
    """
    count = 0
    while count < 1000 and budget.try_spend():
        count += 1
    return count


class BudgetTests(SynchronousTestCase):
    """
    A share of what clients ask, and a burst.
    """

    def test_balance_starts_at_20_and_never_exceeds_it(self) -> None:
        """
        20 at the start, and never more, however many queries credit it.
        """
        budget = Budget(0.1)
        self.assertFalse(budget.is_off)
        self.assertEqual(20, spent(budget))
        budget.credit(100_000)
        self.assertEqual(20, spent(budget))

    def test_share_of_a_quarter_allows_one_in_four(self) -> None:
        """
        A share of a quarter is one for four queries, and none for three.
        """
        budget = Budget(0.25)
        spent(budget)
        budget.credit(3)
        self.assertFalse(budget.try_spend())
        budget.credit(1)
        self.assertTrue(budget.try_spend())
        self.assertFalse(budget.try_spend())
        budget.credit(9)
        self.assertEqual(2, spent(budget))

    def test_share_of_zero_allows_nothing(self) -> None:
        """
        With a share of 0 there is never any.
        """
        budget = Budget(0)
        self.assertTrue(budget.is_off)
        budget.credit(100_000)
        self.assertFalse(budget.try_spend())
