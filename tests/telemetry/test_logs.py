"""
The log: what is worth a line.
"""

from typing import Any

from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import Unreachable
from dotproxy.telemetry import logs
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.logs import LoggedEvents


class LogTests(SynchronousTestCase):
    """
    Events as lines.
    """

    def setUp(self) -> None:
        """
        Catch what is logged.
        """
        self.lines: list[tuple[LogLevel, str]] = []
        self.patch(logs.log, "observer", lambda event: self.lines.append((event["log_level"], formatEvent(event))))

    def tell(self, events: Events) -> None:
        """
        The life of an upstream.
        """
        for resumed in (False, True):
            events.upstream_connected("u", "192.0.2.1:853", "TLSv1.3", "dot.test", resumed=resumed, seconds=0.0123)
            events.connection_closed("u", "the upstream closed the connection", 0)
        events.upstream_went_down("u", Unreachable("connect", "connection refused"))
        events.upstream_came_up("u", 61.04, 7)

    def test_state_changes_are_logged_once(self) -> None:
        """
        The first connection, going down, and recovery are logged; single connections are not.
        """
        self.tell(LoggedEvents())
        expected: list[Any] = [
            (LogLevel.info, "u: connected to 192.0.2.1:853 in 12 ms (TLSv1.3, verified as dot.test)"),
            (LogLevel.warn, "u: down: connect: connection refused"),
            (LogLevel.info, "u: up again after 61.0 s (7 failed attempts)"),
        ]
        self.assertEqual(expected, self.lines)

    def test_connections_are_logged_at_debug(self) -> None:
        """
        At debug each connection has its lines.
        """
        self.tell(LoggedEvents(debug=True))
        self.assertEqual(6, len(self.lines))
        closed = "u: connection ended with 0 queries outstanding: the upstream closed the connection"
        self.assertEqual((LogLevel.debug, closed), self.lines[1])
        self.assertIn("TLSv1.3 resumed", self.lines[2][1])

    def test_events_without_an_observer_are_dropped(self) -> None:
        """
        Events can be told to nobody.
        """
        self.tell(Events())
        self.assertEqual([], self.lines)
