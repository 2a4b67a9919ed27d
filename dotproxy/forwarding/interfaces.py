"""
What the forwarder needs of those around it, and calls them.

Decides nothing: these are the shapes by which listeners, upstreams and the form of messages are handed to it.
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

#: What a rewriter makes of an upstream's message: its parts, or the message itself if nobody else may get it.
UpstreamResponse = ParsedResponse | bytes

#: What a client's response is made from; an ``ExtendedError`` is SERVFAIL with that reason.
Response = UpstreamResponse | ExtendedError

#: Responses, each with the client that gets it.
Answers = list[ClientMessage]


class QueryLog(Protocol):
    """
    Who is told of each response, if the operator wants that.  What is not noted before it is sent is from the cache.
    """

    def note(self, octets: bytes, origin: Origin, response: Response | None = None) -> None:
        """
        This response, not sent yet, comes from there; ``response`` is what it was made from.
        """

    def note_joined(self, query: bytes, seconds: float) -> None:
        """
        The client that sent ``query`` waits with one that has been in flight for so long.
        """

    def note_waited(
        self, query: bytes, octets: bytes, origin: Origin, response: Response, upstream: str, seconds: float
    ) -> None:
        """
        This response is for the client that sent ``query`` and waited; the one in flight took so long, and was answered
        by an upstream.
        """

    def log_sent(self, kind: int, answers: Answers, seconds: float) -> None:
        """
        These are sent, to clients of a listener of that kind; those that did not have to wait took so long.
        """


class Listener(Protocol):
    """
    Where queries come from and answers go.
    """

    @property
    def kind(self) -> int:
        """
        How its queries come, as ``telemetry.counters`` has it.
        """

    @property
    def is_stream(self) -> bool:
        """
        Whether an answer of any size can be sent.
        """

    @property
    def takes_transfers(self) -> bool:
        """
        Whether an answer of many messages can be sent: it is then a ``StreamOfParts`` too.
        """

    def options_for(self, query: bytes, info: QueryInfo, client: Client) -> bytes:
        """
        Return the listener's own EDNS options for the answer to ``query``, which has options, in wire form.

        :raises WireError: if an option that the listener looks for is malformed.
        """

    def send_answers(self, answers: Answers) -> None:
        """
        Send these; a client that is no longer there is no error.
        """


class Source(Protocol):
    """
    Where the parts of a long answer come from.
    """

    def pause(self) -> None:
        """
        The client does not read: send it nothing more for now.
        """

    def resume(self) -> None:
        """
        The client reads again.
        """

    def client_gone(self) -> None:
        """
        Nobody will read any more of it.
        """


class StreamOfParts(Listener, Protocol):
    """
    A listener that can send answers of many messages (RFC 5936 §2.2).
    """

    def send_parts(self, parts: list[bytes], source: Source) -> None:
        """
        Send these messages of an answer of which more will come; the last goes by ``send_answers``.
        """

    def begin_parts(self, source: Source) -> None:
        """
        An answer of many messages begins.
        """

    def end_parts(self, source: Source) -> None:
        """
        It is over.
        """


class MessageRewriter(Protocol):
    """
    What a message looks like on the other side.
    """

    @property
    def is_shared(self) -> bool:
        """
        Whether what is ``parse_response`` once may be ``build_response`` for others who ask the same.
        """

    def forwarded_options(self, query: bytes, info: QueryInfo) -> bytes:
        """
        Return the EDNS options of a query that upstreams are to see, in wire form.

        :raises WireError: if an option in it is malformed.
        """

    def rewrite_query(self, query: bytes, info: QueryInfo, *, for_others: bool = False) -> bytes:
        """
        Return a query as upstreams are asked it, so that the answer is good ``for_others`` who ask the same, too, if
        that is wanted; its question stands where it stood.
        """

    def parse_response(self, query: bytes, info: QueryInfo, reply: bytes) -> UpstreamResponse:
        """
        Return what an upstream's reply says, or raise ``WireError`` if nothing can be made of it.
        """

    def build_response(
        self, query: bytes, info: QueryInfo, answer: UpstreamResponse, age: int = 0, limit: int = MAX_MESSAGE
    ) -> bytes:
        """
        Return an answer, so many seconds after it was read, as the client that sent ``query`` gets it: truncated if it
        is longer than ``limit`` octets.
        """

    def rewrite_transfer_message(self, query: bytes, info: QueryInfo, reply: bytes) -> bytes:
        """
        Return one message of a zone transfer as the client gets it, or raise ``WireError``.
        """


class Transfers(Protocol):
    """
    Who sees to zone transfers.
    """

    def begin(
        self, listener: Any, client: Client, query: bytes, info: QueryInfo, sent: bytes, order: Sequence[int]
    ) -> None:
        """
        Begin one, for a listener that ``takes_transfers``; it is answered in any case.
        """


class Upstream(Protocol):
    """
    Who can be asked.
    """

    label: str
    latency: Latency
    counters: UpstreamCounters
    quarantine: Quarantine

    @property
    def tier(self) -> int:
        """
        Those of a lower tier are preferred: 0 is good, 2 is down.
        """

    def bind(self, observer: Any) -> None:
        """
        Report the fate of queries to ``observer`` from now on: a dispatcher, with ``replies_received``, ``failed`` and
        ``is_wanted``.  Called before the first query, and again with the same observer after a reload.
        """

    def send(self, questions: list[tuple[Any, bytes, int]]) -> None:
        """
        Ask; ``replies_received`` or ``failed`` hears of each question.
        """

    def send_isolated(
        self, questions: list[tuple[Any, bytes, int]], isolation: Isolation, *, is_background: bool
    ) -> None:
        """
        As ``ask``, on connections of their own; ``is_background``: after all those that are ordinary.
        """

    def record_latency(self, seconds: float, answers: int) -> None:
        """
        So many answers of its came together, and the first took so long.
        """

    def record_late(self, questions: int) -> None:
        """
        So many questions were overdue, or answered with an error.
        """

    def watch(self, since: float, seconds: float) -> None:
        """
        A question asked of it at ``since`` is slow, and will be overdue in so many seconds.
        """

    def check_liveness(self, since: float) -> bool:
        """
        A question asked of it at ``since`` is overdue; return whether asking it again is worth while.
        """
