"""
The channel between a supervisor and a worker.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.workers.channel import Channel, Gone, Refused


class ChannelTests(SynchronousTestCase):
    """
    Two ends of it.
    """

    def setUp(self) -> None:
        """
        Connect them.
        """
        self.told: list[Any] = []
        self.later: Deferred[Any] = Deferred()
        self.gone = 0
        commands = {
            "double": lambda given: 2 * given["number"],
            "tell": self.told.append,
            "later": lambda given: self.later,
            "refuse": self.refuse,
            "break": lambda given: 1 / 0,
        }
        self.one = Channel({}, self.went)
        self.other = Channel(commands, lambda: None)
        for end in (self.one, self.other):
            end.makeConnection(StringTransport())

    def went(self) -> None:
        self.gone += 1

    def refuse(self, given: Any) -> None:
        raise ValueError("not today")

    def pump(self) -> None:
        for _ in range(3):
            for end, to in ((self.one, self.other), (self.other, self.one)):
                octets = end.transport.value()
                end.transport.clear()
                for start in range(0, len(octets), 7):
                    to.dataReceived(octets[start : start + 7])

    def test_each_request_gets_its_own_reply(self) -> None:
        """
        Each question gets its own, whenever that is.
        """
        late, early = self.one.ask("later"), self.one.ask("double", {"number": 4})
        self.pump()
        self.assertNoResult(late)
        self.assertEqual(8, self.successResultOf(early))
        self.later.callback(["at last"])
        self.pump()
        self.assertEqual(["at last"], self.successResultOf(late))

    def test_refusal_has_its_reason_and_a_bug_is_logged(self) -> None:
        """
        They come with their reason; a bug is logged where it is.
        """
        refused, broken = self.one.ask("refuse"), self.one.ask("break")
        self.pump()
        self.assertEqual("not today", str(self.failureResultOf(refused, Refused).value))
        self.assertEqual("division by zero", str(self.failureResultOf(broken, Refused).value))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_notification_gets_no_reply(self) -> None:
        """
        What needs no answer gets none.
        """
        self.one.tell("tell", {"a": "ä"})
        self.pump()
        self.assertEqual(([{"a": "ä"}], b""), (self.told, self.other.transport.value()))

    def test_droppable_messages_are_not_buffered(self) -> None:
        """
        While the other side does not read, what may be lost is not kept for it; what may not, is.
        """
        transport = self.one.transport
        self.assertTrue(self.one.tell_if_room("tell", {"number": 1}))
        transport.producer.pauseProducing()
        before = len(transport.value())
        self.assertEqual([False] * 1000, [self.one.tell_if_room("tell", {"number": 2}) for _ in range(1000)])
        self.assertEqual(before, len(transport.value()))
        self.one.tell("tell", {"number": 3})
        transport.producer.resumeProducing()
        self.assertTrue(self.one.tell_if_room("tell", {"number": 4}))
        self.pump()
        self.assertEqual([1, 3, 4], [given["number"] for given in self.told])

    def test_requests_fail_when_the_peer_ends(self) -> None:
        """
        What was asked fails, and what is asked then; what is told is told to nobody.
        """
        asked = self.one.ask("later")
        self.pump()
        self.one.connectionLost(Failure(ConnectionError()))
        self.failureResultOf(asked, Gone)
        self.failureResultOf(self.one.ask("double"), Gone)
        self.one.tell("tell")
        self.assertEqual((b"", 1), (self.one.transport.value(), self.gone))
        self.other.connectionLost(Failure(ConnectionError()))
        self.later.callback(1)
        self.assertEqual(b"", self.other.transport.value())

    def test_overlong_message_ends_the_channel(self) -> None:
        """
        Could not be ours.
        """
        self.one.dataReceived(b"\xff\xff\xff\xff")
        self.assertTrue(self.one.transport.disconnecting)
