"""
Clients in memory, which check what they get: over UDP, over TCP, and in this process.

Decides which query must be answered (all of at least a header that are no responses), and what must hold of an answer:
it is the only one, its ID, opcode and question are the query's, it can be read to its end, and over UDP it is no longer
than it may be.
"""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import dns.exception
import dns.message
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from dotproxy.policy.client import Client, ClientMessage
from dotproxy.policy.server_cookies import ServerCookies
from dotproxy.telemetry.counters import UDP
from dotproxy.wire.framing import Deframer
from dotproxy.wire.message import QueryInfo
from fuzz.servers import is_honest, question_in

#: The longest response over UDP, and one in so many that dnspython reads, too.
LONGEST = 1232
SAMPLED = 40

TRANSFERS = (b"\0\xfb", b"\0\xfc")


def must_be_answered(query: bytes) -> bool:
    """
    Return whether a client waits for an answer to this: to a runt and to a response there is none.
    """
    return len(query) >= 12 and not query[2] & 0x80


class Checks:
    """
    What is checked of answers; ``answers`` counts them, ``parsed`` those that dnspython has read, ``digest`` is of all.
    """

    def __init__(self) -> None:
        self.answers = 0
        self.parsed = 0
        self.digest = sha256()

    def check(self, query: bytes, answer: bytes, limit: int) -> None:
        """
        Check an answer to a query.
        """
        self.answers += 1
        self.digest.update(answer)
        assert answer[:2] == query[:2], "the ID is another query's"
        assert answer[2] & 0x80, "not a response"
        assert not (answer[2] ^ query[2]) & 0x78, "the opcode is another query's"
        assert len(answer) <= limit, f"{len(answer)} octets, {limit} are allowed"
        question = question_in(query)
        if answer[4:6] == b"\0\1":
            assert question_in(answer) == question, "the question is another query's"
        if not question or is_honest(question):
            _walk(answer)
            if not self.answers % SAMPLED and not query[2] & 0x78:
                self._parse(answer)

    def _parse(self, answer: bytes) -> None:
        try:
            dns.message.from_wire(answer)
        except dns.message.UnknownTSIGKey:
            return
        self.parsed += 1


def _walk(answer: bytes) -> None:
    """
    Read a message to its end: its counts are true, and nothing stands behind the last record.
    """
    counts = [int.from_bytes(answer[at : at + 2], "big") for at in (4, 6, 8, 10)]
    offset = 12
    for _ in range(counts[0]):
        offset = _after_name(answer, offset) + 4
    for _ in range(sum(counts[1:])):
        offset = _after_name(answer, offset)
        offset += 10 + int.from_bytes(answer[offset + 8 : offset + 10], "big")
    assert offset == len(answer), f"its records end at {offset} of {len(answer)} octets"


def _after_name(octets: bytes, offset: int) -> int:
    while octets[offset]:
        if octets[offset] >= 0xC0:
            return offset + 2
        offset += octets[offset] + 1
    return offset + 1


class Datagrams:
    """
    The UDP listener; ``pending`` are queries that must still be answered, by the client's port.
    """

    kind = UDP
    is_stream = takes_transfers = False

    def __init__(self, checks: Checks) -> None:
        self.pending: dict[int, bytes] = {}
        self._checks = checks
        self._cookies = ServerCookies(b"f" * 32)
        self._number = 1023  # as a port it is nobody's to whom nothing is answered

    def client_of(self, query: bytes) -> Client:
        """
        Return a client nobody else is, which waits for the answer if there has to be one.
        """
        self._number += 1
        if must_be_answered(query):
            self.pending[self._number] = query
        host = f"127.0.{self._number >> 8 & 3}.{self._number & 255}"
        return Client(host, self._number)

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Called by the forwarder.
        """
        return self._cookies.option_for(query, info, client.host)

    def send_answers(self, answers: list[ClientMessage]) -> None:
        """
        Called by the forwarder.
        """
        for answer, client in answers:
            query = self.pending.pop(client.port, None)
            assert query is not None, f"an answer nobody waits for, or the second one: {answer.hex()}"
            self._checks.check(query, answer, LONGEST)


class Stream(StringTransport):
    """
    The transport of a TCP client.  ``expected`` are queries that must still be answered, by ID; of one that ``babbles``
    nothing is expected.
    """

    def __init__(self, checks: Checks, chance: random.Random, *, babbles: bool) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", f"127.0.1.{chance.randrange(4)}", 4000))
        self.expected: dict[bytes, bytes] = {}
        self.babbles = babbles
        self.protocol: Any = None
        self.unsent = b""
        self.is_over = self.is_held = self.is_blocked = self.is_done = False
        self._checks = checks
        self._deframer = Deframer()
        self._chance = chance

    def connect(self, protocol: Any) -> None:
        """
        Be the transport of this.
        """
        self.protocol = protocol
        protocol.makeConnection(self)

    def send(self, *, ends: bool) -> None:
        """
        Bring some of what is unsent, cut anywhere; say that there will be no more after the last of it.
        """
        while self.unsent and not (self.is_held or self.is_over):
            size = self._chance.choice((1, 2, 3, 20, 500, 65535))
            data, self.unsent = self.unsent[:size], self.unsent[size:]
            self.protocol.dataReceived(data)
        if ends and not self.unsent and not self.is_over and not self.is_done:
            self.is_done = True
            self.protocol.readConnectionLost()

    def write(self, data: bytes) -> None:
        """
        Answers.
        """
        for answer in self._deframer.feed(data):
            if self.babbles:
                continue
            query = self.expected.get(answer[:2])
            assert query is not None, f"an answer nobody waits for, or the second one: {answer.hex()}"
            if query[-4:-2] not in TRANSFERS:
                del self.expected[answer[:2]]
            self._checks.check(query, answer, 65535)
        if not self.is_blocked and not self.is_over and self._chance.random() < 0.01:
            self.is_blocked = True
            self.protocol.pauseProducing()

    def read_again(self) -> None:
        """
        Take what was written.
        """
        if self.is_blocked and not self.is_over:
            self.is_blocked = False
            self.protocol.resumeProducing()

    def pauseProducing(self) -> None:
        """
        The listener does not read.
        """
        self.is_held = True

    def resumeProducing(self) -> None:
        """
        The listener reads.
        """
        self.is_held = False

    def loseConnection(self) -> None:
        """
        The listener has ended it; all that is owed must have been written.
        """
        owed = [query for query in self.expected.values() if query[-4:-2] not in TRANSFERS]
        assert not (self.is_done and owed), "closed before all was answered"
        self.end()

    def abortConnection(self) -> None:
        """
        The listener has cut it: this client did not read.
        """
        self.end()

    def end(self) -> None:
        """
        Be gone.
        """
        if not self.is_over:
            self.is_over = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001 (Twisted's signature)
        """
        Nothing to do.
        """
