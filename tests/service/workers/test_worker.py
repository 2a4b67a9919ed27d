"""
What a worker has its supervisor log.
"""

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger, eventFromJSON
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.service.workers.worker import Worker


class LogTests(SynchronousTestCase):
    """
    Its log, over the channel.
    """

    def setUp(self) -> None:
        """
        A worker with a supervisor that may read, or not.
        """
        self.worker = Worker(Clock())
        self.transport = StringTransport()
        self.worker.channel.makeConnection(self.transport)
        observer: Any = self.worker.log
        self.log = Logger("dotproxy", observer=observer)

    def told(self) -> list[str]:
        """
        The lines that the supervisor gets.
        """
        octets, lines = self.transport.value(), []
        self.transport.clear()
        while octets:
            size = 4 + int.from_bytes(octets[:4], "big")
            _, _, name, given = json.loads(octets[4:size])
            self.assertEqual("log", name)
            event = eventFromJSON(given["event"])
            lines.append(event["log_format"].format(**event))
            octets = octets[size:]
        return lines

    def test_line_is_passed_on_unchanged(self) -> None:
        """
        It is told as it is.
        """
        self.log.info("one of {count}", count=3)
        self.assertEqual(["one of 3"], self.told())

    def test_lines_are_dropped_and_counted_if_the_supervisor_does_not_read(self) -> None:
        """
        Lines are dropped, not kept: a query log may have tens of thousands a second.  How many is told with the next.
        """
        self.transport.producer.pauseProducing()
        for _ in range(1000):
            self.log.info("a query")
        self.assertEqual([], self.told())
        self.transport.producer.resumeProducing()
        self.log.info("the next")
        self.log.info("and one more")
        dropped = "1000 log lines were dropped: the supervisor did not take them in time"
        self.assertEqual([dropped, "the next", "and one more"], self.told())
