"""
How long a failure lasts.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.failures import FIRST, LONGEST, MAX_ENTRIES, MOST_OPTIONS, FailureCache
from dotproxy.wire.edns import EDE_NETWORK_ERROR, ExtendedError
from dotproxy.wire.parsed_response import ParsedResponse

WHY = ExtendedError(EDE_NETWORK_ERROR, "no answer in time")


class FailuresTests(SynchronousTestCase):
    """
    RFC 9520 §3.2.
    """

    def waits(self, failures: FailureCache, times: int, pause: float = 0.0) -> list[float]:
        """
        For how long it is not tried again, each time it fails as soon as it is tried.
        """
        waits: list[float] = []
        now = 100.0
        for _ in range(times):
            failures.add(b"k", WHY, now)
            failure = failures.get(b"k")
            assert failure is not None
            waits.append(failure.until - now)
            now = failure.until + pause
        return waits

    def test_failure_times_and_size_limits(self) -> None:
        """
        5 s at first, 40 s at most; up to 512 octets of options are stored.
        """
        self.assertEqual((5.0, 40.0, 10_000), (FIRST, LONGEST, MAX_ENTRIES))
        for size, kept in ((512, 512), (513, 0)):
            failures = FailureCache()
            failures.add(b"k", ParsedResponse(b"\x81\x82\0\1\0\0\0\0", 0, b"", (), 0, bytes(size), 12), 0.0)
            failure = failures.get(b"k")
            assert failure is not None
            self.assertEqual(kept, len(failure.what.options))

    def test_failure_time_doubles_up_to_its_maximum(self) -> None:
        """
        Five seconds, doubled each time, and never above the maximum (RFC 9520 §3.2).
        """
        self.assertEqual([FIRST, 10.0, 20.0, LONGEST, LONGEST], self.waits(FailureCache(), 5))

    def test_failure_after_a_quiet_while_is_the_first_again(self) -> None:
        """
        A failure that no query met for a while is the first again.
        """
        self.assertEqual([FIRST, FIRST], self.waits(FailureCache(), 2, LONGEST + 1))

    def test_success_and_clear_remove_failures(self) -> None:
        """
        A success removes the failure; a clear removes all.
        """
        failures = FailureCache()
        failures.add(b"a", WHY, 0.0)
        failures.add(b"b", WHY, 0.0)
        failures.remove(b"a")
        failures.remove(b"never")
        self.assertIsNone(failures.get(b"a"))
        failures.clear()
        self.assertEqual(0, len(failures))

    def test_oldest_failure_is_evicted_first(self) -> None:
        """
        The number of entries is bounded.
        """
        failures = FailureCache()
        for number in range(MAX_ENTRIES + 5):
            failures.add(b"%d" % number, WHY, 0.0)
        self.assertEqual(MAX_ENTRIES, len(failures))
        self.assertIsNone(failures.get(b"4"))
        self.assertIsNotNone(failures.get(b"5"))

    def test_long_options_of_an_error_are_not_stored(self) -> None:
        """
        The size of the options is the upstream's choice; above the limit they are dropped.
        """
        failures = FailureCache()
        for number, size in enumerate((MOST_OPTIONS, MOST_OPTIONS + 1, 65000)):
            failures.add(b"%d" % number, ParsedResponse(b"\x81\x82\0\1\0\0\0\0", 0, b"", (), 1, bytes(size), 21), 0.0)
        kept = [failure.what for number in range(3) if (failure := failures.get(b"%d" % number))]
        self.assertEqual([MOST_OPTIONS, 0, 0], [len(answer.options) for answer in kept])
        self.assertEqual([18, 18, 18], [answer.rcode for answer in kept])
