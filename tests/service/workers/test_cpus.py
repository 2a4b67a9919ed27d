"""
How many processors there are.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.workers.cpus import available


class ProcessorTests(SynchronousTestCase):
    """
    Those of the machine, and those of a container.
    """

    def setUp(self) -> None:
        """
        A machine of eight, without control groups.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.groups = Path(folder.name)
        self.patch(os, "sched_getaffinity", lambda pid: set(range(8)))

    def test_cgroup_v2_quota_limits_the_cpus(self) -> None:
        """
        A container may have less, or part of one; never none.
        """
        for text, count in (
            ("max 100000", 8),
            ("200000 100000\n", 2),
            ("150000 100000", 2),
            ("10000 100000", 1),
            ("1600000 100000", 8),
            ("0 100000", 8),
            ("1 0", 8),
            ("rubbish", 8),
            ("", 8),
        ):
            (self.groups / "cpu.max").write_text(text)
            self.assertEqual(count, available(self.groups), text)

    def test_cgroup_v1_quota_limits_the_cpus(self) -> None:
        """
        The first version has two files, and -1 for no limit.
        """
        (self.groups / "cpu").mkdir()
        for quota, count in (("-1", 8), ("300000", 3), ("1000", 1)):
            (self.groups / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
            (self.groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
            self.assertEqual(count, available(self.groups), quota)

    def test_missing_files_and_calls_are_accepted(self) -> None:
        """
        Where there are no such files, and no such calls.
        """
        self.assertEqual(8, available(self.groups))
        call = os.sched_getaffinity
        del os.sched_getaffinity
        self.addCleanup(setattr, os, "sched_getaffinity", call)
        self.patch(os, "cpu_count", lambda: None)
        self.assertEqual(1, available(self.groups))
        self.assertGreaterEqual(available(), 1)
