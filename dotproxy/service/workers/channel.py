"""
What a supervisor and a worker say to each other, over a pair of sockets that nobody else has.

Decides the form: JSON, each message with its length before it.  Either side asks, and is answered once, or tells.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

log = Logger("dotproxy")

#: From what was given to what is answered; raises ``ValueError`` for what cannot be done; may return a Deferred.
Command = Callable[[dict[str, Any]], Any]


#: The descriptors a worker is started with: its end of the channel, and the first of the sockets it serves.
CHANNEL, SOCKETS = 3, 4

#: In place of the name of the worker that reads a socket: all accept connections for TLS from it.
FOR_TLS = "tls"


class Gone(Exception):
    """
    The other side is not there any more.
    """


class Refused(ValueError):
    """
    The other side says that it cannot; the text is its own.
    """


@implementer(IPushProducer)
class _Backlog:
    """
    Whether the transport holds more than it wants to.
    """

    def __init__(self) -> None:
        self.is_long = False

    def pauseProducing(self) -> None:
        """
        The other side does not read.
        """
        self.is_long = True

    def resumeProducing(self) -> None:
        """
        It has read.
        """
        self.is_long = False

    def stopProducing(self) -> None:
        """
        The transport is gone; ``connectionLost`` says the rest.
        """


class Channel(Int32StringReceiver):
    """
    One side of it.

    ``commands`` are what it can be asked or told, by name, and may grow; ``gone`` is called when the other side has
    ended.
    """

    transport: Any
    MAX_LENGTH = 64 << 20

    def __init__(self, commands: dict[str, Command], gone: Callable[[], None]) -> None:
        self.commands = commands
        self._gone = gone
        self._asked: dict[int, Deferred[Any]] = {}
        self._number = 0
        self._is_lost = False
        self._backlog = _Backlog()

    def ask(self, name: str, given: dict[str, Any] | None = None) -> Deferred[Any]:
        """
        Return a Deferred of the answer.

        It fails with ``Refused``, or with ``Gone``.
        """
        if self._is_lost:
            return fail(Gone())
        self._number += 1
        answer = self._asked[self._number] = Deferred()
        self._send(["ask", self._number, name, given or {}])
        return answer

    def tell(self, name: str, given: dict[str, Any] | None = None) -> None:
        """
        Say something that needs no answer.
        """
        if not self._is_lost:
            self._send(["ask", 0, name, given or {}])

    @property
    def has_room(self) -> bool:
        """
        Whether the other side has read nearly all that was said.
        """
        return not self._backlog.is_long

    def tell_if_room(self, name: str, given: dict[str, Any]) -> bool:
        """
        Say something that may be lost, unless the other side has not read what was said before; return whether it was
        said.
        """
        if not self.has_room:
            return False
        self.tell(name, given)
        return True

    def connectionMade(self) -> None:
        """
        Called when there is the other side.
        """
        super().connectionMade()
        self.transport.registerProducer(self._backlog, True)

    def stringReceived(self, string: bytes) -> None:
        """
        Called with a message.
        """
        kind, number, *rest = json.loads(string)
        if kind == "ask":
            self._do(number, *rest)
            return
        answer = self._asked.pop(number)
        if kind == "answer":
            answer.callback(rest[0])
        else:
            answer.errback(Refused(rest[0]))

    def lengthLimitExceeded(self, length: int) -> None:
        """
        Called before a message that could not be ours.
        """
        log.error("a message of {length} octets between processes", length=length)
        self.transport.unregisterProducer()  # it would hold up the end until all is written
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        Called when the other side has ended.
        """
        self._is_lost = True
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.errback(Gone())
        self._gone()

    def _do(self, number: int, name: str, given: dict[str, Any]) -> None:
        done: Deferred[Any] = maybeDeferred(self.commands[name], given)

        def refuse(failure: Failure) -> list[Any]:
            if not failure.check(ValueError):
                log.failure("while doing what was asked: {name}", failure, name=name)
            return ["refuse", number, failure.getErrorMessage()]

        done.addCallbacks(lambda result: ["answer", number, result], refuse)
        if number:
            done.addCallback(self._send)

    def _send(self, message: list[Any]) -> None:
        if not self._is_lost:
            self.sendString(json.dumps(message).encode())
