"""
The machine slept, or has another network.
"""

import subprocess
import sys
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface.verify import verifyObject

from dotproxy.service.network_monitor import ASLEEP, SETTLED, NetworkMonitor, _NetlinkReports, boottime, source_for

REAL = """
import select, subprocess
from dotproxy.service.network_monitor import _NetlinkReports
class Reactor:
    def addReader(self, reader): pass
    def removeReader(self, reader): pass
told = []
reports = _NetlinkReports(lambda: told.append(1), Reactor())
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "address", "add", "192.0.2.7/32", "dev", "lo"], check=True)
assert select.select([reports], [], [], 5)[0]
reports.doRead()
reports.close()
print("told", len(told))
"""


class Reactor(Clock):
    """
    Time, and readers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        """
        Called by the watch.
        """
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        """
        Called by the watch.
        """
        self.readers.remove(reader)


class Upstream:
    """
    An upstream that counts how often it was told.
    """

    def __init__(self) -> None:
        self.label = "u"
        self.tier = 0
        self.moved = 0

    def network_moved(self) -> None:
        """
        Called by the watch.
        """
        self.moved += 1


class WatchTests(SynchronousTestCase):
    """
    When upstreams are told.
    """

    def setUp(self) -> None:
        """
        Two upstreams, watched.
        """
        self.reactor = Reactor()
        self.asleep = 0.0
        self.sources = {"192.0.2.1": "10.0.0.1", "192.0.2.2": "10.0.0.1"}
        self.upstreams = [Upstream(), Upstream()]
        self.told: list[str] = []
        self.watch = NetworkMonitor(
            [(upstream, [host]) for upstream, host in zip(self.upstreams, self.sources, strict=True)],
            on_move=lambda: self.told.append("moved"),
            reactor=self.reactor,
            monotonic=self.reactor.seconds,
            boottime=lambda: self.reactor.seconds() + self.asleep,
            source=self.sources.__getitem__,
        )
        self.watch.startService()
        self.addCleanup(lambda: self.watch.running and self.watch.stopService())

    def moved(self) -> list[int]:
        """
        How often each was told.
        """
        return [upstream.moved for upstream in self.upstreams]

    def test_resume_from_sleep_is_reported_once_within_a_second(self) -> None:
        """
        All are told once when the machine wakes up, within a second; not for what clocks are off anyway.
        """
        self.reactor.pump([1.0] * 5)
        self.asleep += ASLEEP - 1
        self.reactor.pump([1.0] * 5)
        self.assertEqual([0, 0], self.moved())
        self.asleep += 3600
        self.assertEqual([], self.told)
        self.reactor.pump([1.0] * 5)
        self.assertEqual(([1, 1], ["moved"]), (self.moved(), self.told))

    def test_changed_source_address_is_reported_once(self) -> None:
        """
        Those that are reached from another address now are told, once for a burst of reports.
        """
        self.sources["192.0.2.2"] = "10.9.9.9"
        self.watch.network_changed()
        self.watch.network_changed()
        self.assertEqual([0, 0], self.moved())
        self.reactor.advance(SETTLED)
        self.assertEqual(([0, 1], ["moved"]), (self.moved(), self.told))
        self.watch.network_changed()
        self.reactor.advance(SETTLED)
        self.assertEqual([0, 1], self.moved())

    def test_other_changes_are_reported_to_upstreams_that_are_down(self) -> None:
        """
        A change that is not on the way to an upstream matters to those only that are down.
        """
        self.upstreams[0].tier = 2
        self.watch.network_changed()
        self.reactor.advance(SETTLED)
        self.assertEqual(([1, 0], []), (self.moved(), self.told))

    def test_stop_leaves_no_timer_or_socket(self) -> None:
        """
        Nothing is left behind.
        """
        self.watch.network_changed()
        self.watch.stopService()
        self.assertEqual(([], []), (self.reactor.getDelayedCalls(), self.reactor.readers))

    def test_clocks_are_compared_without_netlink(self) -> None:
        """
        Where the kernel does not report, the clocks still are compared.
        """
        watch = NetworkMonitor([], on_move=lambda: None, reactor=object(), monotonic=lambda: 0.0)
        watch._clock = Clock()

        def fails(*given: object) -> None:
            raise OSError

        self.patch(sys.modules["dotproxy.service.network_monitor"], "_NetlinkReports", fails)
        watch.startService()
        watch.stopService()


class SystemTests(SynchronousTestCase):
    """
    What the system is asked.
    """

    def test_source_address_is_that_of_the_route(self) -> None:
        """
        Loopback is reached from loopback; what cannot be reached, from nowhere.
        """
        self.assertEqual("127.0.0.1", source_for("127.0.0.1"))
        self.assertEqual("", source_for("not an address"))

    def test_clock_is_monotonic(self) -> None:
        """
        It goes forward.
        """
        self.assertLessEqual(boottime(), boottime())

    def test_new_address_is_reported_by_netlink(self) -> None:
        """
        An address that comes is reported; in a network namespace of its own.
        """
        verifyObject(IReadDescriptor, _reader())
        try:
            done = subprocess.run(
                ["unshare", "-n", sys.executable, "-c", REAL], capture_output=True, text=True, timeout=30, check=False
            )
        except FileNotFoundError:
            raise SkipTest("no unshare") from None
        if "unshare:" in done.stderr or "'ip'" in done.stderr:
            raise SkipTest(done.stderr.strip().splitlines()[-1])
        self.assertEqual("told 1\n", done.stdout, done.stderr)


def _reader() -> _NetlinkReports:
    reports = _NetlinkReports(lambda: None, Reactor())
    reports._reactor.addReader(reports)
    reports.close()
    return reports
