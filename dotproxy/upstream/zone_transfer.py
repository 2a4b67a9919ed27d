"""
Zone transfers: many messages, each over a connection of its own (RFC 5936, RFC 1995, RFC 9103).

Decides which upstream is asked for a zone, how long it may send nothing, and when a transfer ends.  Which message is
the last of a zone is decided by ``wire.axfr``.  An upstream is read no faster than the client reads, and only over TLS
1.3 (RFC 9103 §7.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from dotproxy.errors import BadReply, Timeout, Unreachable, UpstreamError, WireError
from dotproxy.forwarding.interfaces import MessageRewriter, StreamOfParts
from dotproxy.policy.client import Client
from dotproxy.upstream.timers import cancel
from dotproxy.upstream.tls_errors import lost
from dotproxy.upstream.verification import Identity
from dotproxy.wire.axfr import Transfer
from dotproxy.wire.edns import EDE_NETWORK_ERROR, EDE_OTHER, EDE_PROHIBITED, ExtendedError
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import REFUSED, SERVFAIL, QueryInfo
from dotproxy.wire.responses import refusal

#: A transfer fails after so many seconds without a message.
SILENCE_TIMEOUT = 15.0

#: A connection that is still there so many seconds after it was closed is cut.
CLOSE_TIMEOUT = 1.0

_TOO_MANY = ExtendedError(EDE_OTHER, "too many zone transfers under way")
_NOT_FORWARDED = ExtendedError(EDE_PROHIBITED, "zone transfers are not forwarded here")


class TransferUpstream(Protocol):
    """
    What a transfer needs of an upstream.
    """

    label: str

    @property
    def tier(self) -> int:
        """
        How good it is: a lower tier is preferred.
        """

    def dial(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for a verified connection, used for the transfer alone.
        """


class TransferSettings(NamedTuple):
    """
    What transfers need, at construction and after a reload.

    ``upstreams`` are in the order of the dispatcher's slots; ``limit`` is the most transfers at once, 0 for none.
    """

    upstreams: Sequence[TransferUpstream]
    rewriter: MessageRewriter
    limit: int


class Transfers(Service):
    """
    Owns: the transfers under way.
    Told by: the forwarder (``begin``).
    """

    def __init__(
        self, settings: TransferSettings, *, clock: IReactorTime, random_octets: Callable[[int], bytes]
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.random_octets = random_octets
        self._under_way: set[TransferSession] = set()

    def apply_settings(self, settings: TransferSettings) -> None:
        """
        Use these settings from now on; transfers under way go on, with the new form of messages.
        """
        self.settings = settings

    def begin(
        self, listener: StreamOfParts, client: Client, query: bytes, info: QueryInfo, sent: bytes, order: Sequence[int]
    ) -> None:
        """
        Begin a transfer; ``order`` holds the slots of the upstreams, best first.
        """
        if len(self._under_way) >= self.settings.limit:
            rcode, why = (SERVFAIL, _TOO_MANY) if self.settings.limit else (REFUSED, _NOT_FORWARDED)
            listener.send_answers([(refusal(query, rcode, info, why), client)])
            return
        best = sorted(order, key=lambda index: self.settings.upstreams[index].tier)
        session = TransferSession(self, listener, client, query, info, sent, [self.settings.upstreams[i] for i in best])
        self._under_way.add(session)
        session.start()

    def session_ended(self, session: TransferSession) -> None:
        """
        Called by a transfer.
        """
        self._under_way.discard(session)

    def stopService(self) -> None:
        """
        End every transfer.
        """
        super().stopService()
        for session in tuple(self._under_way):
            session.stop()


class TransferSession:
    """
    One transfer, from one upstream, or the next if that fails before anything was sent to the client.

    Owns: its dial or its connection, and the timer of ``SILENCE_TIMEOUT``.
    Ends when: the last message is sent, no upstream is left, or the client is gone.
    """

    def __init__(
        self,
        transfers: Transfers,
        listener: StreamOfParts,
        client: Client,
        query: bytes,
        info: QueryInfo,
        sent: bytes,
        upstreams: list[TransferUpstream],
    ) -> None:
        self._transfers = transfers
        self._listener = listener
        self._client = client
        self._query = query
        self._info = info
        self._sent = sent
        self._remaining = upstreams
        self._label = ""
        self._dialling: Deferred[Any] | None = None
        self._connection: _Connection | None = None
        self._timer: IDelayedCall | None = None
        self._is_paused = False
        self._has_sent = False
        self._is_over = False
        self._refusal = b""
        self._errors: list[UpstreamError] = []

    def start(self) -> None:
        """
        Query the first upstream.
        """
        self._listener.begin_parts(self)
        self._query_next()

    def stop(self) -> None:
        """
        End the transfer, unfinished.
        """
        self._fail(UpstreamError("read", "shutting down"), is_final=True)

    def pause(self) -> None:
        """
        Stop reading from the upstream: the client does not read.
        """
        self._is_paused = True
        self._stop_timer()
        if self._connection is not None:
            self._connection.transport.pauseProducing()

    def resume(self) -> None:
        """
        Read from the upstream again: the client reads.
        """
        self._is_paused = False
        if self._connection is not None:
            self._watch()
            self._connection.transport.resumeProducing()

    def client_gone(self) -> None:
        """
        End the transfer: the client is gone.
        """
        self._end()

    def _connected(self, connection: _Connection) -> None:
        """
        Send the query over the verified connection.
        """
        self._dialling = None
        self._connection = connection
        if connection.identity.tls_version != "TLSv1.3":
            self._fail(Unreachable("tls", "zone transfers need TLS 1.3, this is " + connection.identity.tls_version))
            return
        connection.transport.write(frame(connection.ident + self._sent[2:]))
        self._watch()
        if self._is_paused:
            self.pause()

    def received(self, messages: list[bytes], transfer: Transfer) -> None:
        """
        Send the messages of one read on to the client.
        """
        parts: list[bytes] = []
        problem = ""
        rewriter = self._transfers.settings.rewriter
        try:
            for message in messages:
                transfer.take(message)
                part = rewriter.rewrite_transfer_message(self._query, self._info, message)
                if transfer.is_refused and self._remaining:
                    self._refusal = self._refusal or part
                    raise WireError("refused")
                parts.append(part)
                if transfer.is_over:
                    break
        except WireError as error:
            problem = error.reason
        last = parts.pop() if parts and transfer.is_over and not problem else None
        if parts:
            self._has_sent = True
            self._listener.send_parts(parts, self)
        if self._is_over:  # the client was gone when it was sent to
            return
        if last is not None:
            self._answer(last)
        elif problem:
            self._fail(BadReply("read", problem))
        elif not self._is_paused:
            self._watch()

    def connection_lost(self, reason: Failure) -> None:
        """
        Fail: the connection ended before the transfer did.
        """
        self._connection = None
        self._fail(lost(reason))

    def _query_next(self) -> None:
        upstream = self._remaining.pop(0)
        self._label = upstream.label
        ident = self._transfers.random_octets(2)
        factory = Factory.forProtocol(lambda: _Connection(self, Transfer(self._query, self._info), ident))
        factory.noisy = False
        self._dialling = dialling = upstream.dial(factory)
        dialling.addCallbacks(self._connected, self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        self._dialling = None
        if failure.check(CancelledError):
            return
        error = failure.value
        self._fail(error if isinstance(error, UpstreamError) else Unreachable("connect", failure.getErrorMessage()))

    def _fail(self, error: UpstreamError, *, is_final: bool = False) -> None:
        """
        Query the next upstream, unless part of the zone was sent; without one, answer SERVFAIL with the reasons.
        """
        error.upstream = self._label
        self._errors.append(error)
        self._disconnect()
        if self._remaining and not self._has_sent and not is_final:
            self._query_next()
        elif self._refusal and not self._has_sent:
            self._answer(self._refusal)
        else:
            error_option = ExtendedError(EDE_NETWORK_ERROR, "; ".join(map(str, self._errors)))
            self._answer(refusal(self._query, SERVFAIL, self._info, error_option))

    def _answer(self, last: bytes) -> None:
        listener, client = self._listener, self._client
        if self._end():
            listener.send_answers([(last, client)])

    def _end(self) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        self._disconnect()
        self._listener.end_parts(self)
        self._transfers.session_ended(self)
        return True

    def _disconnect(self) -> None:
        """
        Close the connection or the dial.
        """
        self._stop_timer()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(self._transfers.clock)
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.cancel()

    def _watch(self) -> None:
        self._stop_timer()
        self._timer = self._transfers.clock.callLater(SILENCE_TIMEOUT, self._silent)

    def _silent(self) -> None:
        self._fail(Timeout("read", f"nothing for {SILENCE_TIMEOUT:g} s of a zone transfer"))

    def _stop_timer(self) -> None:
        cancel(self._timer)
        self._timer = None


class _Connection(TwistedProtocol):
    """
    The connection to an upstream, for one transfer.
    """

    transport: Any
    identity: Identity

    def __init__(self, session: TransferSession, transfer: Transfer, ident: bytes) -> None:
        self._session: TransferSession | None = session
        self._transfer = transfer
        self._deframer = Deframer()
        self._close_timer: IDelayedCall | None = None
        self.ident = ident

    def dataReceived(self, data: bytes) -> None:
        """
        Report the messages with the ID of the query; ignore others.
        """
        messages = [message for message in self._deframer.feed(data) if message[:2] == self.ident]
        if messages and self._session is not None:
            self._session.received(messages, self._transfer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Report the end, if the transfer goes on.
        """
        cancel(self._close_timer)
        if self._session is not None:
            self._session.connection_lost(reason)

    def close(self, clock: IReactorTime) -> None:
        """
        Close the connection; nothing it receives is reported any more.
        """
        self._session = None
        self._close_timer = clock.callLater(CLOSE_TIMEOUT, self.transport.abortConnection)
        self.transport.resumeProducing()  # to read its close_notify
        self.transport.loseConnection()
