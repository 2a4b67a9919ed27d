"""
The garbage collector, after the start.
"""

import gc

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.gc_tuning import freeze


class FreezeTests(SynchronousTestCase):
    """
    What lives until the end is not looked at again.
    """

    def test_freeze_collects_then_freezes_live_objects(self) -> None:
        """
        Everything that is alive, and the young are looked at seldom; what is garbage is collected before.
        """
        before = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *before)
        self.addCleanup(gc.unfreeze)
        loop: list[object] = []
        loop.append(loop)
        marker = {"in": loop}
        loop.append(marker)
        del loop, marker
        freeze()
        self.assertGreater(gc.get_freeze_count(), 1000)
        self.assertEqual((50000, 20, 50), gc.get_threshold())
        self.assertLess(len(gc.get_objects()), gc.get_freeze_count())
