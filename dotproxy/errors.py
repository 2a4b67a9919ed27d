"""
The one family of errors that crosses between rooms.

Anything else that escapes a room is a bug.  An error here is a value first: it carries the parts a
client, a log line or a person at a terminal needs, and its text is made from them.
"""

from __future__ import annotations

from enum import StrEnum

from dotproxy.wire.printable import short_printable

#: Where an upstream can fail, in order.
PHASES = ("resolve", "connect", "tls", "verify", "read")


class ClientEnd(StrEnum):
    """
    Why a client's TCP connection was ended or refused, as a metric's label has it.
    """

    EVICTED = "evicted"
    IDLE = "idle"
    NOT_READ = "not_read"
    REFUSED = "refused"
    UNREAD = "unread"
    UNREAD_IN_ALL = "unread_in_all"


class ConnectionEnd(StrEnum):
    """
    Why a connection to an upstream ended, as a metric's label has it; ``UpstreamError.reason`` says it in a sentence.
    """

    ABORTED = "aborted"
    AGE = "age"
    ASKED_TO_CLOSE = "asked_to_close"
    CONNECTION_LOST = "connection_lost"
    CREDENTIALS = "credentials"
    IDLE = "idle"
    INVALID_MESSAGE = "invalid_message"
    NETWORK = "network"
    OTHER = "other"
    PEER_CLOSED = "peer_closed"
    REPLACED = "replaced"
    SILENCE = "silence"
    STOPPED = "stopped"
    TLS_ERROR = "tls_error"


class ShedReason(StrEnum):
    """
    Why a query was not processed, so that others are answered in time, as a metric's label has it.
    """

    TOO_OLD = "too_old"
    RATE = "rate"
    IN_FLIGHT = "in_flight"
    SOURCE_PORT = "source_port"
    NOT_ALLOWED = "not_allowed"
    RESPONSE_RATE = "response_rate"


class DotproxyError(Exception):
    """
    Whatever dotproxy raises on purpose.
    """


class WireError(DotproxyError):
    """
    Octets that are not the DNS message they claim to be.

    ``rcode`` is what a querier that sent them should be told; ``None`` means nothing at all.
    """

    def __init__(self, reason: str, rcode: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rcode = rcode


class TruncatedReply(WireError):
    """
    A response that was truncated though it came over a stream: there was no room for all of it, and its OPT.
    """

    def __init__(self) -> None:
        super().__init__("truncated, over a stream")


class UpstreamError(DotproxyError):
    """
    An upstream did not answer.

    ``phase`` is where it went wrong, one of ``PHASES``; ``reason`` says what happened, in a sentence; ``code``, of a
    connection that ended, in a word.  A reason may quote the network: it is kept short, its control characters escaped.
    ``upstream`` is the label of the upstream, filled in by whoever knows it.
    ``is_lasting``: trying again soon is no use.  ``was_not_sent``: no query of those that failed was sent.
    """

    code = ConnectionEnd.OTHER
    is_lasting = False
    was_not_sent = False

    def __init__(self, phase: str, reason: str, upstream: str = "") -> None:
        reason = short_printable(reason)
        super().__init__(phase, reason, upstream)
        self.phase = phase
        self.reason = reason
        self.upstream = upstream

    def __str__(self) -> str:
        where = f"{self.upstream}: " if self.upstream else ""
        return f"{where}{self.phase}: {self.reason}"


class Unreachable(UpstreamError):
    """
    No connection came about: refused, no route, or a TLS handshake that failed.
    """

    was_not_sent = True


class Timeout(UpstreamError):
    """
    Nothing came in time.
    """

    code = ConnectionEnd.SILENCE


class Incompatible(UpstreamError):
    """
    No TLS session is possible with what listens there: version, cipher, or a service that does not speak TLS.
    """

    is_lasting = True
    was_not_sent = True


class ConnectionGone(UpstreamError):
    """
    A verified connection ended with queries outstanding on it.

    ``was_alone``: no other query was, so that this one may be what ended it.
    """

    code = ConnectionEnd.CONNECTION_LOST
    was_alone = False


class BadReply(UpstreamError):
    """
    The upstream sent what cannot be DNS over a stream; the connection is not worth keeping.
    """

    code = ConnectionEnd.INVALID_MESSAGE


class Untrusted(UpstreamError):
    """
    The upstream is not who it should be: chain, name, address or pin.
    """

    is_lasting = True
    was_not_sent = True


class ConfigError(DotproxyError):
    """
    Configuration that cannot be used; ``problems`` holds one line for each thing wrong with it.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
