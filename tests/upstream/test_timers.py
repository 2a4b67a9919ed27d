"""
Calls that come later, unless what they are about is gone.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.upstream.timers import Timers


class TimersTests(SynchronousTestCase):
    """
    What is called, and what no longer is.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.timers = Timers(self.clock)
        self.called: list[tuple[object, ...]] = []

    def later(self, seconds: float, *args: object) -> None:
        self.timers.later(seconds, lambda *given: self.called.append(given), *args)

    def test_call_is_made_once_with_its_arguments(self) -> None:
        """
        At its time, and it is not under way any more.
        """
        self.later(2.0, "one", "two")
        self.assertEqual(1, len(self.timers))
        self.clock.advance(1.9)
        self.assertEqual([], self.called)
        self.clock.advance(0.1)
        self.assertEqual([("one", "two")], self.called)
        self.assertEqual(0, len(self.timers))

    def test_forget_drops_calls_of_one_subject_only(self) -> None:
        """
        A call of another subject, even an equal one, is made.
        """
        one, equal = [1], [1]
        self.later(1.0, one)
        self.later(2.0, one)
        self.later(1.0, equal)
        self.later(1.0)
        self.timers.forget(one)
        self.assertEqual(2, len(self.timers))
        self.clock.advance(3.0)
        self.assertEqual([([1],), ()], self.called)

    def test_stop_drops_all(self) -> None:
        """
        Nothing is left in the reactor; new calls can be made.
        """
        self.later(1.0, "one")
        self.later(2.0)
        self.timers.stop()
        self.assertEqual((0, []), (len(self.timers), self.clock.getDelayedCalls()))
        self.later(1.0, "again")
        self.clock.advance(1.0)
        self.assertEqual([("again",)], self.called)
