"""
What an upstream's past says about asking it.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Timeout, Unreachable
from dotproxy.policy.health import Health

REFUSED = Unreachable("connect", "connection refused")


class HealthTests(SynchronousTestCase):
    """
    Up, down, and up again.
    """

    def setUp(self) -> None:
        """
        An upstream nothing is known of.
        """
        self.health = Health()

    def test_it_is_up_until_it_fails(self) -> None:
        """
        Nothing known is good; it may be dialled at once.
        """
        self.assertTrue(self.health.is_up)
        self.assertEqual(0.0, self.health.wait(0.0, asked=False))

    def test_failures_are_counted(self) -> None:
        """
        It is down from the first failure on, and remembers how many there were and the last one's reason.
        """
        for _ in range(3):
            self.health.failed(REFUSED, 1.0, 0.0)
        self.assertEqual((False, 3), (self.health.is_up, self.health.failures))
        self.assertIs(REFUSED, self.health.error)

    def test_a_handshake_proves_a_failed_dial_wrong(self) -> None:
        """
        After failed dials a verified handshake brings it up, once.
        """
        self.health.failed(REFUSED, 1.0, 0.0)
        self.assertEqual([True, False], [self.health.connected(), self.health.connected()])
        self.assertTrue(self.health.is_up)
        self.assertIsNone(self.health.error)

    def test_after_silence_only_an_answer_counts(self) -> None:
        """
        An upstream that was silent is not up for shaking hands, but for answering.
        """
        self.health.failed(Timeout("read", "silent"), 1.0, 0.0, silent=True)
        self.health.failed(REFUSED, 2.0, 0.0)
        self.assertFalse(self.health.connected())
        self.assertFalse(self.health.is_up)
        self.assertTrue(self.health.answered())
        self.assertTrue(self.health.is_up)

    def test_silence_is_forgotten_with_an_answer(self) -> None:
        """
        After an answer a failed dial is again a failed dial, which a handshake proves wrong.
        """
        self.health.failed(Timeout("read", "silent"), 1.0, 0.0, silent=True)
        self.health.answered()
        self.health.failed(REFUSED, 2.0, 0.0)
        self.assertTrue(self.health.connected())

    def test_an_answer_from_one_that_is_up_is_no_change(self) -> None:
        """
        Coming up is told once.
        """
        self.assertEqual([False, False], [self.health.answered(), self.health.connected()])

    def test_the_last_failure_is_the_one_told(self) -> None:
        """
        Of several failures the latest is kept, and the wait is that of the latest, with its jitter.
        """
        self.health.failed(REFUSED, 1.0, 0.0)
        latest = Timeout("connect", "slow")
        self.health.failed(latest, 5.0, 0.5)
        self.assertIs(latest, self.health.error)
        self.assertAlmostEqual(0.15, self.health.wait(5.0, asked=False))
        self.assertAlmostEqual(0.05, self.health.wait(5.1, asked=False))

    def test_one_that_came_up_may_be_dialled_at_once(self) -> None:
        """
        Recovery ends the wait.
        """
        for _ in range(10):
            self.health.failed(REFUSED, 100.0, 0.0)
        self.health.connected()
        self.assertEqual(0.0, self.health.wait(100.0, asked=False))

    def test_the_wait_is_counted_from_the_failure(self) -> None:
        """
        What is left of the wait shrinks with time; while somebody asks it is a second at most.
        """
        for _ in range(10):
            self.health.failed(REFUSED, 100.0, 0.0)
        self.assertEqual(30.0, self.health.wait(100.0, asked=False))
        self.assertEqual(1.0, self.health.wait(100.0, asked=True))
        self.assertAlmostEqual(0.25, self.health.wait(100.75, asked=True))
        self.assertEqual(0.0, self.health.wait(131.0, asked=False))
