"""
When another connection is worth while.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.sharing import MOST, wants_another


class SharingTests(SynchronousTestCase):
    """
    Slow and many: both have to be.
    """

    def test_when(self) -> None:
        """
        (took, dial, outstanding, standing) → whether.
        """
        for case, wanted in {
            (0.2, 0.01, 8, 1): True,
            (0.2, 0.01, 7, 1): False,
            (0.2, 0.01, 16, 2): True,
            (0.2, 0.01, 15, 2): False,
            (0.2, 0.01, 1000, MOST): False,
            (0.09, 0.01, 1000, 1): False,
            (0.2, 0.1, 1000, 1): False,
            (0.3, 0.1, 1000, 1): True,
        }.items():
            self.assertEqual(wanted, wants_another(*case), case)
