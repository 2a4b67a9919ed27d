"""
One rendering for several.
"""

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.admin.shared_render import SharedRender


class SharedRenderTests(SynchronousTestCase):
    """
    Who gets which.
    """

    def setUp(self) -> None:
        """
        Renderings that are done when they are told to be.
        """
        self.clock = Clock()
        self.begun: list[Deferred[int]] = []
        self.shared = SharedRender(self.render, 0.25, self.clock)

    def render(self) -> Deferred[int]:
        """
        Called to render.
        """
        self.begun.append(Deferred())
        return self.begun[-1]

    def test_first_request_is_rendered_at_once(self) -> None:
        """
        Who asks after a quiet time does not wait, and gets a new one each time.
        """
        for number in range(3):
            asked = self.shared()
            self.begun.pop().callback(number)
            self.assertEqual(number, self.successResultOf(asked))
            self.clock.advance(0.25)

    def test_request_during_a_render_waits_for_the_next(self) -> None:
        """
        Who asks while one is under way waits for the next, with everybody who does; it begins an interval later.
        """
        first = self.shared()
        others = [self.shared() for _ in range(20)]
        self.begun.pop().callback(1)
        self.assertEqual(1, self.successResultOf(first))
        others.append(self.shared())
        self.clock.advance(0.24)
        self.assertEqual([], self.begun)
        self.clock.advance(0.01)
        self.begun.pop().callback(2)
        self.assertEqual([2] * 21, [self.successResultOf(one) for one in others])

    def test_page_is_rendered_four_times_a_second_at_most(self) -> None:
        """
        However fast it is asked for, it is rendered four times a second.
        """
        count = 0
        for _ in range(1000):
            self.shared().addErrback(lambda _: None)
            self.clock.advance(0.01)
            while self.begun:
                count += 1
                self.begun.pop().callback(0)
        self.assertLessEqual(count, 41)
        self.assertGreaterEqual(count, 38)

    def test_failure_is_reported_to_all_that_wait(self) -> None:
        """
        All who share it hear of it; the next one is tried.
        """
        self.patch(self.shared, "_render", lambda: fail(ValueError("odd")))
        asked = [self.shared()]
        asked += [self.shared(), self.shared()]
        self.clock.advance(0.25)
        for one in asked:
            self.failureResultOf(one, ValueError)
