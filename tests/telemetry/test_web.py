"""
The admin address.
"""

from errno import EACCES, ENOENT

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.telemetry.web import AdminService


class AdminServiceTests(SynchronousTestCase):
    """
    Serving, or not.
    """

    def test_why_there_is_none(self) -> None:
        """
        The reason is text: where it was to be stands there once, and a path is no Python bytes.
        """
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        errors = (
            (CannotListenError(None, b"/nowhere/adm9", OSError(ENOENT, "No such file or directory")), "no such file"),
            (CannotListenError("", 99, OSError(EACCES, "Permission denied")), "permission denied"),
            (RuntimeError("odd"), "odd"),
        )
        for error, reason in errors:

            class Endpoint:
                def listen(self, site: object, error: Exception = error) -> Deferred[object]:
                    return fail(error)

            AdminService(Endpoint(), None, "/nowhere/adm9").startService()  # type: ignore[arg-type]
            text = formatEvent(events[-1])
            self.assertTrue(text.startswith(f"no admin on /nowhere/adm9: {reason}"), text)
            self.assertNotIn("b'", text)
            self.assertEqual(1, text.count("adm9"))
