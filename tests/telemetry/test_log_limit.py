"""
Lines that say the same over and over.
"""

from typing import Any

from twisted.logger import LogEvent, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.telemetry.log_limit import _KINDS, LINES, QUERY_LINES, TRACEBACKS, WINDOW, LogLimit


class LogLimitTests(SynchronousTestCase):
    """
    Events, and what is left of them.
    """

    def setUp(self) -> None:
        """
        A limit, and who is behind it.
        """
        self.written: list[LogEvent] = []
        self.limit = LogLimit(self.written.append)

    def tell(self, count: int, time: float = 0.0, kind: str = "{a} went wrong", **more: Any) -> None:
        """
        Have so many events of a kind.
        """
        for number in range(count):
            self.limit({"log_namespace": "dotproxy", "log_format": kind, "log_time": time, "a": number, **more})

    def test_lines_above_the_limit_are_counted(self) -> None:
        """
        The count is logged when the minute is over; other kinds are not affected.
        """
        self.tell(LINES + 900)
        self.tell(1, kind="another")
        self.assertEqual(LINES + 1, len(self.written))
        self.written.clear()
        self.tell(1, WINDOW)
        self.assertEqual(
            ["900 more events like this were not logged: {a} went wrong", "0 went wrong"],
            [formatEvent(event) for event in self.written],
        )
        self.tell(LINES, WINDOW + 1)
        self.assertEqual(LINES + 1, len(self.written))

    def test_tracebacks_have_a_lower_limit(self) -> None:
        """
        Of those fewer.
        """
        self.tell(50, log_failure=Failure(ValueError("x")))
        self.assertEqual(TRACEBACKS, len(self.written))

    def test_query_log_is_limited_by_the_second(self) -> None:
        """
        It is limited by the second, and tells how many lines are missing.
        """
        self.tell(QUERY_LINES, 10.0, log_namespace="dotproxy.queries")
        self.assertEqual(QUERY_LINES, len(self.written))
        self.tell(50_000, 10.5, log_namespace="dotproxy.queries")
        self.assertEqual(QUERY_LINES, len(self.written))
        self.tell(1, 11.0, log_namespace="dotproxy.queries")
        told = "50000 responses more were not logged: there were too many"
        self.assertEqual([told, "0 went wrong"], [formatEvent(event) for event in self.written[QUERY_LINES:]])

    def test_table_of_kinds_is_bounded(self) -> None:
        """
        No table grows with what is logged.
        """
        for number in range(10 * _KINDS):
            self.tell(1, kind=f"kind {number}")
        self.assertEqual(_KINDS + LINES, len(self.written))
        self.assertLessEqual(len(self.limit._counts) + len(self.limit._left_out), _KINDS + 2)

    def test_clock_set_back_starts_a_new_window(self) -> None:
        """
        It begins a window anew.
        """
        self.tell(LINES + 1, 10**9)
        self.tell(1, 0.0)
        self.assertEqual(LINES + 2, len(self.written))
