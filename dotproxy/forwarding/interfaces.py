"""
Interfaces the forwarder depends on; listeners, upstreams, rewriters and the query log implement them.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dotproxy.policy.client import Client, ClientMessage
from dotproxy.policy.latency import Latency
from dotproxy.policy.quarantine import Quarantine
from dotproxy.policy.retry import Isolation
from dotproxy.telemetry.counters import Origin, UpstreamCounters
from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.message import MAX_MESSAGE, QueryInfo
from dotproxy.wire.parsed_response import ParsedResponse

#: An upstream's response, parsed; in wire form if it is for one client only.
UpstreamResponse = ParsedResponse | bytes

#: What a client's response is built from; an ``ExtendedError`` is SERVFAIL with that reason.
Response = UpstreamResponse | ExtendedError

#: Responses in wire form, each with the client that gets it.
Answers = list[ClientMessage]


class QueryLog(Protocol):
    """
    Records each response, if the operator switches that on.  A response that was not noted before is from the cache.
    """

    def note(self, octets: bytes, origin: Origin, response: Response | None = None) -> None:
        """
        Note the origin of a response that is not sent yet; ``response`` is what it was built from.
        """

    def note_joined(self, query: bytes, seconds: float) -> None:
        """
        Note that the client that sent ``query`` joined an identical one that has been in flight for ``seconds``.
        """

    def note_waited(
        self, query: bytes, octets: bytes, origin: Origin, response: Response, upstream: str, seconds: float
    ) -> None:
        """
        Note a response to the client that sent ``query`` and waited: the query in flight took ``seconds``; ``upstream``
        is the label of the upstream that responded, "" if none did.
        """

    def log_sent(self, kind: int, answers: Answers, seconds: float) -> None:
        """
        Log responses that are sent over a listener of this kind; those that did not wait took ``seconds``.
        """


class Listener(Protocol):
    """
    Source of queries, and destination of their responses.
    """

    @property
    def kind(self) -> int:
        """
        The transport of its queries: one of ``UDP``, ``TCP`` … of ``telemetry.counters``.
        """

    @property
    def is_stream(self) -> bool:
        """
        Whether responses can have any size.
        """

    @property
    def takes_transfers(self) -> bool:
        """
        Whether it can send a response of many messages: it is a ``StreamOfParts`` then.
        """

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Return the listener's own EDNS options for the response to ``query``, which has options, in wire form.

        :raises WireError: if an option that the listener looks for is malformed.
        """

    def send_answers(self, answers: Answers) -> None:
        """
        Send responses; a client that has disconnected is no error.
        """


class Source(Protocol):
    """
    Producer of the messages of a zone transfer.
    """

    def pause(self) -> None:
        """
        Stop sending: the client does not read.
        """

    def resume(self) -> None:
        """
        Continue: the client reads again.
        """

    def client_gone(self) -> None:
        """
        End the transfer: the client has disconnected.
        """


class StreamOfParts(Listener, Protocol):
    """
    A listener that can send responses of many messages (RFC 5936 §2.2).
    """

    def send_parts(self, parts: list[bytes], source: Source) -> None:
        """
        Send messages of a response; the last one of it is sent by ``send_answers``.
        """

    def begin_parts(self, source: Source) -> None:
        """
        Begin a response of many messages.
        """

    def end_parts(self, source: Source) -> None:
        """
        End it.
        """


class MessageRewriter(Protocol):
    """
    Rewrites queries for upstreams, and responses for clients.
    """

    @property
    def is_shared(self) -> bool:
        """
        Whether one parsed response may be used for other clients with the same question.
        """

    def forwarded_options(self, query: bytes, info: QueryInfo) -> bytes:
        """
        Return the EDNS options of a query that are forwarded to upstreams, in wire form.

        :raises WireError: if an option in it is malformed.
        """

    def rewrite_query(self, query: bytes, info: QueryInfo, *, for_others: bool = False) -> bytes:
        """
        Return a query for upstreams, in wire form, with the question at the same offset.  ``for_others``: the response
        has to suit other clients with the same question.
        """

    def parse_response(self, query: bytes, info: QueryInfo, reply: bytes) -> UpstreamResponse:
        """
        Return an upstream's reply, parsed.

        :raises WireError: if the reply is of no use.
        """

    def build_response(
        self, query: bytes, info: QueryInfo, answer: UpstreamResponse, age: int = 0, limit: int = MAX_MESSAGE
    ) -> bytes:
        """
        Return the response to the client that sent ``query``, in wire form: TTLs less ``age`` seconds, truncated if
        longer than ``limit`` octets.
        """

    def rewrite_transfer_message(self, query: bytes, info: QueryInfo, reply: bytes) -> bytes:
        """
        Return one message of a zone transfer for the client, in wire form.

        :raises WireError: if the message is of no use.
        """


class Transfers(Protocol):
    """
    Runs zone transfers.
    """

    def begin(
        self, listener: Any, client: Client, query: bytes, info: QueryInfo, sent: bytes, order: Sequence[int]
    ) -> None:
        """
        Begin a transfer for a listener that ``takes_transfers``; the client gets a response in every case.
        """


class Upstream(Protocol):
    """
    A server that queries are sent to.
    """

    label: str
    latency: Latency
    counters: UpstreamCounters
    quarantine: Quarantine

    @property
    def tier(self) -> int:
        """
        Its ``policy.health.Tier``: 0 good, 1 slow, 2 down; lower ones are preferred.
        """

    def bind(self, observer: Any) -> None:
        """
        Report the fate of queries to ``observer`` from now on: a dispatcher, with ``replies_received``, ``failed`` and
        ``is_wanted``.  Called before the first query, and again with the same observer after a reload.
        """

    def send(self, questions: list[tuple[Any, bytes, int]]) -> None:
        """
        Send queries; the observer gets ``replies_received`` or ``failed`` for each.
        """

    def send_isolated(
        self, questions: list[tuple[Any, bytes, int]], isolation: Isolation, *, is_background: bool
    ) -> None:
        """
        Send queries on connections of their own; ``is_background``: after all ordinary queries.
        """

    def record_latency(self, seconds: float, answers: int) -> None:
        """
        Record the response time of the first of ``answers`` responses that came together.
        """

    def record_late(self, questions: int) -> None:
        """
        Record queries that were overdue, or got an error response.
        """

    def watch(self, since: float, seconds: float) -> None:
        """
        Note that a query sent at ``since`` is slow, and will be overdue in ``seconds``.
        """

    def check_liveness(self, since: float) -> bool:
        """
        Note that a query sent at ``since`` is overdue; return whether the upstream still responds to others.
        """
