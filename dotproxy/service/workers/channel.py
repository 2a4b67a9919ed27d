"""
The channel between the supervisor and one worker, over a private socket pair.

Decides the form of messages: JSON, each after its length (four octets, big endian).  Either side sends requests, each
of which gets one reply, and notices, which get none.  Refuses to know what the commands do.
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

#: The arguments of a command, as JSON: their types are each command's (``Any``).
Arguments = dict[str, Any]

#: Runs a command and returns its result, as JSON, or a Deferred of it; raises ``ValueError`` to refuse.
Command = Callable[[Arguments], Any]


#: File descriptors of a new worker: its end of the channel, and the first of the sockets that it serves.
CHANNEL, SOCKETS = 3, 4

#: Marks a socket for DNS over TLS where others have the name of a worker: all workers accept connections from it.
FOR_TLS = "tls"


class Gone(Exception):
    """
    The other side has ended.
    """


class Refused(ValueError):
    """
    The other side refused a request; the text is its reason.
    """


@implementer(IPushProducer)
class _Backlog:
    """
    Whether the transport holds more octets than it should.
    """

    def __init__(self) -> None:
        self.is_long = False

    def pauseProducing(self) -> None:
        """
        Note that the other side does not read fast enough; called by the transport.
        """
        self.is_long = True

    def resumeProducing(self) -> None:
        """
        Note that the other side has read; called by the transport.
        """
        self.is_long = False

    def stopProducing(self) -> None:
        """
        Do nothing: ``connectionLost`` follows.
        """


class Channel(Int32StringReceiver):
    """
    One end of the channel.

    Owns: requests without a reply.  Ends when: the other side closes.
    Tells: ``commands``, by name (more may be added later); ``on_close``, when the other side has ended.
    """

    transport: Any  # no interface of Twisted's is a transport and a consumer
    MAX_LENGTH = 64 << 20

    def __init__(self, commands: dict[str, Command], on_close: Callable[[], None]) -> None:
        self.commands = commands
        self._on_close = on_close
        self._requests: dict[int, Deferred[Any]] = {}
        self._last_number = 0
        self._is_closed = False
        self._backlog = _Backlog()

    def ask(self, name: str, given: Arguments | None = None) -> Deferred[Any]:
        """
        Send a request; return a Deferred of the reply.

        It fails with ``Refused`` or ``Gone``.
        """
        if self._is_closed:
            return fail(Gone())
        self._last_number += 1
        reply = self._requests[self._last_number] = Deferred()
        self._send(["ask", self._last_number, name, given or {}])
        return reply

    def tell(self, name: str, given: Arguments | None = None) -> None:
        """
        Send a notice; after the other side has ended it is dropped.
        """
        if not self._is_closed:
            self._send(["ask", 0, name, given or {}])

    @property
    def has_room(self) -> bool:
        """
        Whether the other side has read nearly all messages.
        """
        return not self._backlog.is_long

    def tell_if_room(self, name: str, given: Arguments) -> bool:
        """
        Send a notice that may be lost, unless the other side reads too slowly; return whether it was sent.
        """
        if not self.has_room:
            return False
        self.tell(name, given)
        return True

    def connectionMade(self) -> None:
        """
        Watch the transport's buffer; called by Twisted.
        """
        super().connectionMade()
        self.transport.registerProducer(self._backlog, True)

    def stringReceived(self, string: bytes) -> None:
        """
        Handle one message; called by Twisted.
        """
        kind, number, *rest = json.loads(string)
        if kind == "ask":
            name, given = rest
            self._run(number, name, given)
            return
        (result,) = rest
        reply = self._requests.pop(number)
        if kind == "answer":
            reply.callback(result)
        else:
            reply.errback(Refused(result))

    def lengthLimitExceeded(self, length: int) -> None:
        """
        Close the channel: no message of ours is that long; called by Twisted.
        """
        log.error("a message of {length} octets between processes", length=length)
        self.transport.unregisterProducer()  # with a producer, closing waits until everything is written
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        Fail every request with ``Gone``; called by Twisted.
        """
        self._is_closed = True
        requests, self._requests = self._requests, {}
        for reply in requests.values():
            reply.errback(Gone())
        self._on_close()

    def _run(self, number: int, name: str, given: Arguments) -> None:
        """
        Run a command; send its result if it was a request (``number`` is not 0).
        """
        done: Deferred[Any] = maybeDeferred(self.commands[name], given)

        def refuse(failure: Failure) -> list[object]:
            if not failure.check(ValueError):
                log.failure("a command failed: {name}", failure, name=name)
            return ["refuse", number, failure.getErrorMessage()]

        done.addCallbacks(lambda result: ["answer", number, result], refuse)
        if number:
            done.addCallback(self._send)

    def _send(self, message: list[object]) -> None:
        if not self._is_closed:
            self.sendString(json.dumps(message).encode())
