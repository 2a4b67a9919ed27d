"""
A reactor whose processes are not there.
"""

import json
import os
import struct
from typing import Any

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from dotproxy.telemetry.report import Report, as_data


class Process:
    """
    One that is not there.
    """

    def __init__(self, number: int, protocol: Any, files: dict[int, Any], environment: dict[str, str]) -> None:
        self.pid = number
        self.protocol = protocol
        self.files = files
        self.environment = environment
        self.signals: list[str] = []
        self.transport = StringTransport()
        self.channel: Any = None

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)
        if name == "KILL":
            self.end(9)

    def end(self, number: int | None = None) -> None:
        """
        It ends, by a signal or by itself.
        """
        error = ProcessTerminated(None, number, 0) if number else ProcessDone(0)
        self.channel.connectionLost(Failure(ConnectionError()))
        self.protocol.processEnded(Failure(error))

    def said(self) -> list[Any]:
        """
        What it was told and asked since.
        """
        octets, messages = self.transport.value(), []
        self.transport.clear()
        while octets:
            (size,) = struct.unpack("!I", octets[:4])
            messages.append(json.loads(octets[4 : 4 + size]))
            octets = octets[4 + size :]
        return messages

    def answer(self, message: list[Any], result: Any = None, kind: str = "answer") -> None:
        self.say([kind, message[1], result])

    def say(self, message: list[Any]) -> None:
        text = json.dumps(message).encode()
        self.channel.dataReceived(struct.pack("!I", len(text)) + text)

    def serve(self) -> dict[str, Any]:
        """
        Answer what it was asked first; return with what.
        """
        (begin,) = self.said()
        assert begin[2] == "begin"
        self.answer(begin)
        return begin[3]

    def report(self, **given: Any) -> None:
        """
        Answer the question for a report.
        """
        asked = [message for message in self.said() if message[2] == "report"]
        assert asked
        for each in asked:
            self.answer(each, json.loads(json.dumps(as_data(Report(**given)))))


class Processes(Clock):
    """
    A reactor whose processes are not there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Process] = []

    def spawnProcess(self, protocol: Any, program: str, arguments: Any, env: Any, childFDs: Any) -> Process:
        assert [isinstance(fd, int) and os.fstat(fd) for fd in childFDs.values() if fd != "r"]
        process = Process(100 + len(self.all), protocol, childFDs, env)
        self.all.append(process)
        return process

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        process = self.all[-1]
        process.channel = factory.buildProtocol(None)
        process.channel.makeConnection(process.transport)
