"""
Numbers in sentences.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.telemetry.plural import pluralized


class PluralTests(SynchronousTestCase):
    """
    One thing, or several.
    """

    def test_singular_for_one_and_plural_otherwise(self) -> None:
        """
        None are several; a plural may be no mere s.
        """
        self.assertEqual(["0 answers", "1 answer", "2 answers"], [pluralized(number, "answer") for number in range(3)])
        self.assertEqual(["1 query", "5 queries"], [pluralized(number, "query", "queries") for number in (1, 5)])
