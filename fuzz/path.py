"""
The whole path of a query, without sockets: a listener, the forwarder, an upstream's connection.

What has to hold whatever octets come, from clients or from upstreams, is checked here; the fuzz targets and the
Hypothesis tests both use it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from twisted.internet.task import Clock

from dotproxy.cache.responses import CacheSettings, ResponseCache
from dotproxy.errors import ConnectionGone
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.forwarding.interfaces import Transfers, Upstream
from dotproxy.forwarding.query_filter import QueryFilter
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.forwarding.settings import DispatcherSettings, ForwarderSettings
from dotproxy.policy.access import AccessList
from dotproxy.policy.budget import Budget
from dotproxy.policy.client import Client
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.selection import Ordering
from dotproxy.policy.server_cookies import ServerCookies
from dotproxy.policy.share_settings import ShareLimits, ShareSettings
from dotproxy.policy.special_names import SpecialNames
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import RecordingListener, ScriptedUpstream
from dotproxy.testing.zone import Zone, address_rdata
from dotproxy.wire.conversation import Conversation
from dotproxy.wire.edns import opt_record
from dotproxy.wire.framing import Deframer, frame
from dotproxy.wire.message import HEADER, HEADER_SIZE, RD, question_of
from dotproxy.wire.responses import OUR_UDP_SIZE
from dotproxy.wire.rewrite import ClientSubnet, EdnsRewriter
from dotproxy.wire.rrtypes import A

GOOD = make_query("good.fuzz.example.", A)
ZONE = Zone({(f"{name}.fuzz.example.", A): [address_rdata("192.0.2.1")] for name in ("www", "good")})
CLIENT = Client("127.0.0.1", 4000)

#: Made once, since that takes longer than a message.
REWRITER = EdnsRewriter(128, ClientSubnet.PASS)
_SPECIAL = SpecialNames()

#: No message may cost more CPU time than this, in seconds.
LIMIT = 0.5


class NoTransfers:
    """
    Transfers are not part of this.
    """

    def begin(self, listener: Any, client: Any, query: bytes, info: Any, sent: bytes, order: Any) -> None:
        """
        Answer at once.
        """
        listener.send_answers([(query[:2] + b"\x80\x05" + bytes(8), client)])


def build_forwarder(
    upstreams: Sequence[Upstream],
    clock: Clock,
    *,
    ordering: Ordering,
    transfers: Transfers,
    cache: ResponseCache,
    networks: list[IPv4Network | IPv6Network],
    max_outstanding: int,
) -> Forwarder:
    """
    Return a forwarder whose times are the clock's, with everything switched on that looks into messages.
    """
    now = clock.seconds
    dispatcher = Dispatcher(
        upstreams,
        DispatcherSettings(REWRITER.parse_response, Budget(0.03), query_timeout=4.0, attempt_timeout=1.5),
        clock=clock,
        monotonic=now,
    )
    return Forwarder(
        dispatcher,
        ForwarderSettings(
            ordering=ordering,
            query_filter=QueryFilter(_SPECIAL, REWRITER),
            rewriter=REWRITER,
            response_builder=ResponseBuilder(REWRITER, 1232),
        ),
        transfers=transfers,
        cache=cache,
        clock=clock,
        monotonic=now,
        boottime=now,
        wall_time=lambda: 0.0,
        # Without a rate: over it a client may get silence, and which queries must be answered could not be told.
        shares=ClientShares(
            ShareSettings(AccessList(networks).allows, max_in_flight=max_outstanding, limits=ShareLimits(rate=0.0))
        ),
    )


class Path:
    """
    A proxy with one upstream; ``clients`` is the listener.
    """

    def __init__(self, *, is_stream: bool = False) -> None:
        self.clock = Clock()
        self.upstream = ScriptedUpstream()
        self.forwarder = build_forwarder(
            [self.upstream],
            self.clock,
            ordering=lambda query, info: (0,),
            transfers=NoTransfers(),
            cache=ResponseCache(CacheSettings(stale_for=10.0), entries=10, octets=1 << 20),
            networks=[ip_network("127.0.0.0/8")],
            max_outstanding=100,
        )
        self.clients = RecordingListener(is_stream=is_stream)
        cookies = ServerCookies(b"s" * 32)
        self.clients.options_for = (  # type: ignore[method-assign]
            lambda query, info, client: cookies.option_for(query, info, client.host)
        )
        self.conversation: Conversation[Any] = Conversation(lambda size: bytes(range(256)) * 2)

    def ask(self, query: bytes) -> bytes | None:
        """
        A client asks; what it is answered at once, if it is.
        """
        self.clients.answers.clear()
        silent = self.forwarder.handle_batch(self.clients, [(query, CLIENT)])
        assert len(self.clients.answers) + silent + self.forwarder.outstanding == 1
        return self.clients.answers[0][0] if self.clients.answers else None

    def replied(self, stream: bytes) -> None:
        """
        The upstream sends octets over its connection; if they show that it speaks no DNS, the connection ends.
        """
        asked, self.upstream.asked = self.upstream.asked, []
        self.conversation.submit(asked)
        answers = self.conversation.receive(stream)
        if answers:
            self.upstream.observer.replies_received(self.upstream, answers)
        left = self.conversation.abandon()
        self.conversation = Conversation(lambda size: bytes(range(256)) * 2)
        self.upstream.observer.failed(self.upstream, left, ConnectionGone("read", "closed"), is_final=True)

    def check_answer(self, query: bytes, answer: bytes) -> None:
        """
        Check what must hold of any answer.
        """
        assert answer[:2] == query[:2]
        assert answer[2] & 0x80
        assert (answer[2] ^ query[2]) & 0x78 == 0
        if not self.clients.is_stream:
            assert len(answer) <= 1232

    def check_good(self) -> None:
        """
        Check that the next good question is answered.
        """
        self.clients.answers.clear()
        self.upstream.asked.clear()
        assert self.ask(GOOD) is None
        self.upstream.answer(ZONE(self.upstream.asked[0][1]) or b"")
        ((answer, _),) = self.clients.answers
        assert answer[3] & 15 == 0
        assert b"\xc0\x00\x02\x01" in answer


def fuzz_query(octets: bytes) -> None:
    """
    Octets from a client, as a datagram and as a stream.
    """
    began = time.process_time()
    for is_stream in (False, True):
        path = Path(is_stream=is_stream)
        for query in Deframer().feed(octets) if is_stream else [octets]:
            answer = path.ask(query)
            if answer is not None:
                path.check_answer(query, answer)
            elif path.upstream.asked:
                _, sent, end = path.upstream.asked[0]
                # Nothing leaves that makes an upstream close the connection that others use.
                assert len(sent) >= 12
                assert not sent[2] & 0xF8
                assert sent[12:end] == query[12:end]
                path.upstream.answer(ZONE(sent) or sent[:2] + b"\x81\x82" + sent[4:])
                if path.clients.answers:
                    path.check_answer(query, path.clients.answers[0][0])
                for _ in range(2):  # kept, if it may be; then remembered
                    path.clock.pump([0.5] * 10)
                    if (again := path.ask(query)) is not None:
                        path.check_answer(query, again)
            path.forwarder.stop()
            path.upstream.asked.clear()
        path.check_good()
    assert time.process_time() - began < LIMIT


def _query_for(octets: bytes, *, edns: bool) -> bytes:
    """
    Return a query for what a reply without its ID answers, or, if that cannot be told, for a name of ours.
    """
    end = question_of(b"\0\0" + octets) - 2
    if end < 0:
        return make_query("www.fuzz.example.", A, edns=edns)
    opt = opt_record(OUR_UDP_SIZE) if edns else b""
    return HEADER.pack(1, RD, 1, 0, 0, int(edns)) + octets[HEADER_SIZE - 2 : end] + opt


def fuzz_reply(octets: bytes) -> None:
    """
    Octets from an upstream: first as what stands in a frame under the right ID, then as the stream itself.
    """
    began = time.process_time()
    for edns in (False, True):
        query = _query_for(octets, edns=edns)
        for is_stream in (False, True):
            for stream in (frame(b"\xfe\xff" + octets[:65533]), octets):
                path = Path(is_stream=is_stream)
                if (at_once := path.ask(query)) is not None:  # a special name, or a transfer: no upstream is asked
                    path.check_answer(query, at_once)
                    continue
                path.replied(stream)
                path.clock.pump([0.5] * 10)
                ((answer, _),) = path.clients.answers
                path.check_answer(query, answer)
                if (again := path.ask(query)) is not None:
                    path.check_answer(query, again)
                path.forwarder.stop()
                path.check_good()
    assert time.process_time() - began < LIMIT
