"""
How many processors there are.
"""

import os

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.workers.processors import available


class ProcessorTests(SynchronousTestCase):
    """
    Those of the machine, and those of a container.
    """

    def test_quotas(self) -> None:
        """
        A container may have less, or part of one; never none.
        """
        self.patch(os, "sched_getaffinity", lambda pid: set(range(8)))
        for text, count in (
            ("max 100000", 8),
            ("200000 100000", 2),
            ("150000 100000", 2),
            ("10000 100000", 1),
            ("1600000 100000", 8),
            ("0 100000", 1),
            ("1 0", 8),
            ("rubbish", 8),
            ("", 8),
        ):
            self.assertEqual(count, available(lambda text=text: text), text)

    def test_elsewhere(self) -> None:
        """
        Where there are no such files, and no such calls.
        """

        def read() -> str:
            raise FileNotFoundError

        self.patch(os, "sched_getaffinity", lambda pid: {0, 3})
        self.assertEqual(2, available(read))
        os_without = {"sched_getaffinity": os.sched_getaffinity}
        del os.sched_getaffinity
        self.addCleanup(setattr, os, "sched_getaffinity", os_without["sched_getaffinity"])
        self.patch(os, "cpu_count", lambda: None)
        self.assertEqual(1, available(read))
        self.assertGreaterEqual(available(), 1)
