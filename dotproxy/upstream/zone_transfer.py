"""
Zone transfers: many messages, each over a connection of its own (RFC 5936, RFC 1995, RFC 9103).

Decides who is asked for a zone, how long it may take to say something, and when it is over.  What ends a transfer
is ``wire.axfr``'s to know.  A zone travels no faster than its client reads, and only over TLS 1.3 (RFC 9103
§7.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from dotproxy.errors import BadReply, Timeout, Unreachable, UpstreamError, WireError
from dotproxy.forwarding.interfaces import MessageRewriter, StreamOfParts
from dotproxy.policy.client import Client
from dotproxy.upstream.tls_errors import lost
from dotproxy.upstream.verification import Identity
from dotproxy.wire.axfr import Transfer
from dotproxy.wire.edns import EDE_NETWORK_ERROR, EDE_OTHER, EDE_PROHIBITED, ExtendedError
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import REFUSED, SERVFAIL, QueryInfo
from dotproxy.wire.responses import refusal

#: An upstream that sends nothing for this long, in seconds, has stopped.
SILENCE = 15.0

#: An upstream that was told goodbye and does not answer is cut off after so long.
FAREWELL = 1.0

_TOO_MANY = ExtendedError(EDE_OTHER, "too many zone transfers under way")
_NONE_AT_ALL = ExtendedError(EDE_PROHIBITED, "zone transfers are not forwarded here")


class Dialled(Protocol):
    """
    An upstream, as far as transfers are concerned.
    """

    label: str

    @property
    def tier(self) -> int:
        """
        Those of a lower tier are preferred.
        """

    def dial(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Return a Deferred for a verified connection of its own.
        """


class Transfers(Service):
    """
    Owns: every transfer under way.
    Told by: the forwarder (``begin``).
    """

    def __init__(
        self,
        upstreams: Sequence[Dialled],
        *,
        rewriter: MessageRewriter,
        clock: IReactorTime,
        random_octets: Callable[[int], bytes],
        limit: int,
    ) -> None:
        self.upstreams = tuple(upstreams)
        self.rewriter = rewriter
        self.clock = clock
        self.random_octets = random_octets
        self._limit = limit
        self._under_way: set[TransferSession] = set()

    def change(self, upstreams: Sequence[Dialled], *, rewriter: MessageRewriter, limit: int) -> None:
        """
        Ask these from now on, by their places in orders.
        """
        self.upstreams, self.rewriter, self._limit = tuple(upstreams), rewriter, limit

    def begin(
        self, listener: StreamOfParts, client: Client, query: bytes, info: QueryInfo, sent: bytes, order: Sequence[int]
    ) -> None:
        """
        Begin a transfer; ``order`` holds the upstreams, best first.
        """
        if len(self._under_way) >= self._limit:
            rcode, why = (SERVFAIL, _TOO_MANY) if self._limit else (REFUSED, _NONE_AT_ALL)
            listener.send_answers([(refusal(query, rcode, info, why), client)])
            return
        best = sorted(order, key=lambda index: self.upstreams[index].tier)
        conveyance = TransferSession(self, listener, client, query, info, sent, [self.upstreams[i] for i in best])
        self._under_way.add(conveyance)
        conveyance.start()

    def over(self, conveyance: TransferSession) -> None:
        """
        Called by a transfer that has ended.
        """
        self._under_way.discard(conveyance)

    def stopService(self) -> None:
        """
        End every transfer.
        """
        super().stopService()
        for conveyance in tuple(self._under_way):
            conveyance.stop()


class TransferSession:
    """
    One transfer, from one upstream or, as long as nothing of the zone has come, another.

    Owns: its dial or its connection, and the timer that watches over it.
    Ends when: the last message is sent, no upstream is left, or the client has gone.
    """

    def __init__(
        self,
        owner: Transfers,
        listener: StreamOfParts,
        client: Client,
        query: bytes,
        info: QueryInfo,
        sent: bytes,
        upstreams: list[Dialled],
    ) -> None:
        self._owner = owner
        self._listener = listener
        self._client = client
        self._query = query
        self._info = info
        self._sent = sent
        self._left = upstreams
        self._label = ""
        self._dialling: Deferred[Any] | None = None
        self._connection: _Connection | None = None
        self._timer: IDelayedCall | None = None
        self._is_paused = False
        self._has_begun = False
        self._is_over = False
        self._refused = b""
        self._errors: list[UpstreamError] = []

    def start(self) -> None:
        """
        Ask the first upstream.
        """
        self._listener.begin_parts(self)
        self._ask_next()

    def stop(self) -> None:
        """
        End it, unfinished.
        """
        self._fail(UpstreamError("read", "shutting down"), is_final=True)

    def pause(self) -> None:
        """
        The client does not read.
        """
        self._is_paused = True
        self._stop_timer()
        if self._connection is not None:
            self._connection.transport.pauseProducing()

    def resume(self) -> None:
        """
        The client reads again.
        """
        self._is_paused = False
        if self._connection is not None:
            self._watch()
            self._connection.transport.resumeProducing()

    def client_gone(self) -> None:
        """
        Nobody is left to convey to.
        """
        self._end()

    def _dialled(self, connection: _Connection) -> None:
        """
        A verified connection stands: ask.
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
        Messages came.
        """
        parts: list[bytes] = []
        problem = ""
        try:
            for message in messages:
                transfer.take(message)
                if transfer.is_refused and self._left:
                    self._refused = self._refused or self._owner.rewriter.rewrite_transfer_message(
                        self._query, self._info, message
                    )
                    raise WireError("refused")
                parts.append(self._owner.rewriter.rewrite_transfer_message(self._query, self._info, message))
                if transfer.is_over:
                    break
        except WireError as error:
            problem = error.reason
        last = parts.pop() if parts and transfer.is_over and not problem else None
        if parts:
            self._has_begun = True
            self._listener.send_parts(parts, self)
        if self._is_over:  # the client went away while it was written to
            return
        if last is not None:
            self._answer(last)
        elif problem:
            self._fail(BadReply("read", problem))
        elif not self._is_paused:
            self._watch()

    def connection_lost(self, reason: Failure) -> None:
        """
        It ended before the transfer did.
        """
        self._connection = None
        self._fail(lost(reason))

    def _ask_next(self) -> None:
        upstream = self._left.pop(0)
        self._label = upstream.label
        ident = self._owner.random_octets(2)
        factory = Factory.forProtocol(lambda: _Connection(self, Transfer(self._query, self._info), ident))
        factory.noisy = False
        self._dialling = dialling = upstream.dial(factory)
        dialling.addCallbacks(self._dialled, self._not_dialled)

    def _not_dialled(self, failure: Failure) -> None:
        self._dialling = None
        if failure.check(CancelledError):
            return
        error = failure.value
        self._fail(error if isinstance(error, UpstreamError) else Unreachable("connect", failure.getErrorMessage()))

    def _fail(self, error: UpstreamError, *, is_final: bool = False) -> None:
        """
        Ask the next upstream, unless part of the zone is out already; without one, say what happened.
        """
        error.upstream = self._label
        self._errors.append(error)
        self._leave()
        if self._left and not self._has_begun and not is_final:
            self._ask_next()
        elif self._refused and not self._has_begun:
            self._answer(self._refused)
        else:
            told = ExtendedError(EDE_NETWORK_ERROR, "; ".join(map(str, self._errors)))
            self._answer(refusal(self._query, SERVFAIL, self._info, told))

    def _answer(self, last: bytes) -> None:
        listener, client = self._listener, self._client
        if self._end():
            listener.send_answers([(last, client)])

    def _end(self) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        self._leave()
        self._listener.end_parts(self)
        self._owner.over(self)
        return True

    def _leave(self) -> None:
        """
        Let go of the upstream that was asked.
        """
        self._stop_timer()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave(self._owner.clock)
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.cancel()

    def _watch(self) -> None:
        self._stop_timer()
        self._timer = self._owner.clock.callLater(SILENCE, self._silent)

    def _silent(self) -> None:
        self._fail(Timeout("read", f"nothing for {SILENCE:g} s of a zone transfer"))

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


class _Connection(TwistedProtocol):
    """
    The connection of one transfer.
    """

    transport: Any
    identity: Identity

    def __init__(self, conveyance: TransferSession, transfer: Transfer, ident: bytes) -> None:
        self._conveyance: TransferSession | None = conveyance
        self._transfer = transfer
        self._deframer = Deframer()
        self._farewell: IDelayedCall | None = None
        self.ident = ident

    def dataReceived(self, data: bytes) -> None:
        """
        Octets from the upstream; messages under another ID are nobody's.
        """
        messages = [message for message in self._deframer.feed(data) if message[:2] == self.ident]
        if messages and self._conveyance is not None:
            self._conveyance.received(messages, self._transfer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        It is over.
        """
        if self._farewell is not None and self._farewell.active():
            self._farewell.cancel()
        if self._conveyance is not None:
            self._conveyance.connection_lost(reason)

    def leave(self, clock: IReactorTime) -> None:
        """
        End it: everything that was wanted of it has come, or nothing is wanted any more.
        """
        self._conveyance = None
        self._farewell = clock.callLater(FAREWELL, self.transport.abortConnection)
        self.transport.resumeProducing()  # or its goodbye would not be read
        self.transport.loseConnection()
