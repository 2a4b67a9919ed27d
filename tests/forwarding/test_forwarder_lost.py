"""
Connections that end under queries: who is asked again, how, and how often.
"""

from collections import Counter
from typing import Any

import dns.message
import dns.rcode
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionGone, Untrusted
from dotproxy.forwarding.dispatcher import Dispatcher
from dotproxy.forwarding.forwarder import Forwarder
from dotproxy.forwarding.response_builder import ResponseBuilder
from dotproxy.forwarding.settings import DispatcherSettings, ForwarderSettings
from dotproxy.policy.client_shares import ClientShares
from dotproxy.policy.quarantine import question_key
from dotproxy.policy.retry import Isolation
from dotproxy.policy.share_settings import ShareSettings
from dotproxy.testing.client import make_query
from dotproxy.testing.fakes import ScriptedUpstream
from dotproxy.testing.server import HANG_UP, DotServer
from dotproxy.upstream.settings import Runtime, UpstreamSettings
from dotproxy.upstream.upstream import Upstream
from dotproxy.upstream.verified_endpoint import VerifiedEndpoint
from dotproxy.wire.message import HEADER_SIZE, question_of
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.rrtypes import A
from tests import rounds
from tests.forwarding.test_forwarder import CLIENT, Scene, extended_error, reply_of
from tests.forwarding.test_forwarder_failover import error_of
from tests.upstream import scenes

QUERY = make_query("www.test.", A)
LOST, LAST, KNOWN, UNUSUAL = Isolation.LOST, Isolation.LAST, Isolation.KNOWN, Isolation.UNUSUAL


def lose(upstream: ScriptedUpstream, *, alone: bool = False) -> None:
    """
    End the connection on which everything is outstanding.
    """
    gone = ConnectionGone("read", "the upstream closed the connection")
    gone.was_alone = alone
    upstream.fail(gone)


class LostTests(SynchronousTestCase):
    """
    What becomes of a query whose connection ended.
    """

    def test_lost_query_is_sent_three_times_the_last_on_a_connection_that_replied(self) -> None:
        """
        It is sent apart from then on; after two connections of its own have ended there is SERVFAIL (RFC 9520 §3.1).
        """
        scene = Scene()
        scene.ask(QUERY)
        sent = []
        for alone in (False, True, True):
            sent += scene.upstreams[0].isolations
            self.assertEqual([], scene.listener.answers)
            lose(scene.upstreams[0], alone=alone)
        self.assertEqual([Isolation.NONE, LOST, LAST], sent)
        self.assertEqual((23, "u0: read: the upstream closed the connection"), extended_error(scene.answer()))

    def test_query_lost_twice_with_others_is_answered_alone(self) -> None:
        """
        The third time it is sent alone, and its response is passed on.
        """
        scene = Scene()
        scene.ask(QUERY)
        lose(scene.upstreams[0])
        lose(scene.upstreams[0])
        self.assertEqual([LAST], scene.upstreams[0].isolations)
        scene.upstreams[0].answer(reply_of(scene.upstreams[0].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_lost_query_goes_to_the_other_upstream_isolated(self) -> None:
        """
        With two upstreams the other is sent it, isolated, too; three sends in all.
        """
        scene = Scene(upstreams=2)
        scene.ask(QUERY)
        lose(scene.upstreams[0])
        self.assertEqual(([], [LOST]), (scene.upstreams[0].isolations, scene.upstreams[1].isolations))
        lose(scene.upstreams[1], alone=True)
        self.assertEqual(([LAST], []), (scene.upstreams[0].isolations, scene.upstreams[1].isolations))
        lose(scene.upstreams[0], alone=True)
        self.assertEqual(dns.rcode.SERVFAIL, scene.answer().rcode())

    def test_lost_query_is_sent_to_each_upstream(self) -> None:
        """
        While there is an upstream without an attempt, the query does not fail.
        """
        scene = Scene(upstreams=5)
        scene.ask(QUERY)
        lose(scene.upstreams[0])
        for upstream in scene.upstreams[1:4]:
            lose(upstream, alone=True)
        scene.upstreams[4].answer(reply_of(scene.upstreams[4].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_upstream_given_up_is_no_attempt(self) -> None:
        """
        A is not trusted, B responds SERVFAIL: C is sent the query, and its response is passed on.
        """
        scene = Scene(upstreams=3)
        scene.ask(QUERY)
        scene.upstreams[0].fail(Untrusted("verify", "the certificate has expired"), is_final=True)
        scene.upstreams[1].answer(error_of(scene.upstreams[1].asked[0], dns.rcode.SERVFAIL))
        self.assertEqual(1, len(scene.upstreams[2].asked))
        scene.upstreams[2].answer(reply_of(scene.upstreams[2].asked[0]))
        self.assertEqual(dns.rcode.NOERROR, scene.answer().rcode())

    def test_quarantined_question_prefers_other_upstreams_and_is_isolated(self) -> None:
        """
        It goes to an upstream where it is not quarantined first, and isolated where it is.
        """
        scene = Scene(upstreams=2)
        key = question_key(QUERY, question_of(QUERY))
        scene.upstreams[0].quarantine.add(key, 0.0)
        scene.ask(QUERY)
        self.assertEqual(([], [Isolation.NONE]), (scene.upstreams[0].isolations, scene.upstreams[1].isolations))
        scene.upstreams[1].quarantine.add(key, 0.0)
        scene.ask(make_query("WWW.test.", A))
        self.assertEqual([KNOWN], scene.upstreams[0].isolations)
        scene.ask(make_query("other.test.", A))
        self.assertEqual([KNOWN, Isolation.NONE], scene.upstreams[0].isolations)

    def test_unusual_queries_are_isolated_unless_transparent(self) -> None:
        """
        What cannot be joined and servers may refuse goes apart at once; but nothing does where all passes as it is.
        """
        meta = make_query("www.test.", 253)
        without_rd = QUERY[:2] + bytes((QUERY[2] & ~1,)) + QUERY[3:]
        end = question_of(QUERY)
        chaos = QUERY[: end - 1] + b"\3" + QUERY[end:]
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(meta, without_rd, chaos, QUERY)
        self.assertEqual([Isolation.NONE, UNUSUAL, UNUSUAL, UNUSUAL], sorted(scene.upstreams[0].isolations))
        scene = Scene()
        scene.ask(meta, without_rd, QUERY)
        self.assertEqual([Isolation.NONE] * 3, scene.upstreams[0].isolations)


class HangingUp:
    """
    A forwarder, real upstreams and servers in memory; names that begin with "bad" end the connection.
    """

    def __init__(self, servers: int = 1, after: int | None = None) -> None:
        self.scenes = [scenes.Scene() for _ in range(servers)]
        self.network = self.scenes[0].network
        self.clock = self.network.reactor
        self.seen: list[Counter[bytes]] = []
        upstreams = []
        self.servers = []
        for number in range(servers):
            server = DotServer(lambda query: None, scenes.GOOD)
            seen: Counter[bytes] = Counter()
            server.answer = self.answering(server, seen, after)
            endpoint = VerifiedEndpoint(self.clock, f"192.0.2.{number + 1}", 853, scenes.make_verifier(), 3.0)
            upstream = Upstream(
                f"u{number}",
                endpoint,
                UpstreamSettings(),
                runtime=Runtime(self.clock, self.clock.seconds, scenes.Counting(), lambda: 0.0),
                events=scenes.Heard(),
            )
            upstream.startService()
            upstreams.append(upstream)
            self.servers.append(server)
            self.seen.append(seen)
        self.upstreams = upstreams
        scene = Scene(upstreams=servers, rewriter=EdnsRewriter())
        now = self.clock.seconds
        self.dispatcher = Dispatcher(
            upstreams,
            DispatcherSettings(EdnsRewriter().parse_response, scene.dispatcher._settings.hedging, 4.0, 1.5),
            clock=self.clock,
            monotonic=now,
        )
        given: dict[str, Any] = {"transfers": None, "cache": None}
        given["shares"] = ClientShares(ShareSettings(lambda host: True, max_in_flight=20000))
        self.forwarder = Forwarder(
            self.dispatcher,
            ForwarderSettings(
                ordering=lambda query, seen: tuple(range(servers)),
                query_filter=scene.forwarder._query_filter,
                rewriter=EdnsRewriter(),
                response_builder=ResponseBuilder(EdnsRewriter(), 1232),
            ),
            clock=self.clock,
            monotonic=now,
            boottime=now,
            wall_time=lambda: 0.0,
            **given,
        )
        self.listener = scene.listener

    @staticmethod
    def answering(server: DotServer, seen: Counter[bytes], after: int | None) -> Any:
        """
        What a server does: it hangs up at bad names, and, if that is wanted, after so many answers.
        """

        def answer(query: bytes) -> bytes | None:
            name = query[HEADER_SIZE : question_of(query)]
            if len(name) > 5:  # else it is a probe
                seen[name.lower()] += 1
            if name[1:].startswith(b"bad"):
                return HANG_UP
            return dns.message.make_response(dns.message.from_wire(query)).to_wire()

        def counting(query: bytes) -> bytes | None:
            connection = server.connections[-1]
            reply = answer(query)
            if after is not None and reply is not HANG_UP:
                connection = next(one for one in server.connections if one.queries and one.queries[-1] is query)
                if len(connection.queries) > after:
                    return None
                if len(connection.queries) == after and reply is not None:
                    connection.send(reply)
                    return HANG_UP
            return reply

        return answer if after is None else counting

    def ask(self, *names: str) -> None:
        """
        Ask for these, in one batch; the ID is the place.
        """
        batch = [(make_query(name, A, ident=ident), CLIENT) for ident, name in enumerate(names)]
        self.forwarder.handle_batch(self.listener, batch)

    def run(self, seconds: float) -> None:
        """
        Let time pass, and every dial succeed.
        """
        for _ in range(int(seconds / 0.05)):
            while self.network._taken < len(self.network.dialled):
                host, _ = self.network.dialled[self.network._taken]
                self.network.accept(self.servers[int(host.rpartition(".")[2]) - 1])
            self.network.advance(0.05)

    def rcodes(self) -> dict[int, int]:
        """
        The rcode each got, by ID.
        """
        answers = [answer for answer, _ in self.listener.answers]
        self.listener.answers.clear()
        found = {answer[0] << 8 | answer[1]: answer[3] & 15 for answer in answers}
        assert len(found) == len(answers)
        return found


class WholeTests(SynchronousTestCase):
    """
    From clients to servers that hang up.
    """

    @settings(max_examples=rounds(8, quick=3), deadline=None)
    @given(st.integers(0, 40), st.lists(st.integers(0, 40), min_size=1, max_size=3), st.integers(1, 3))
    def test_all_queries_but_the_bad_ones_are_answered(self, good: int, bad_at: list[int], servers: int) -> None:
        """
        However many queries are outstanding, wherever the bad ones are: all others are answered, the bad ones get
        SERVFAIL, and nobody is sent anything more than three times.
        """
        scene = HangingUp(servers)
        names = [f"good{number}.test." for number in range(good)]
        for number, at in enumerate(bad_at):
            names.insert(min(at, len(names)), f"bad{number}.example{number}.")
        scene.ask("warm.test.")
        scene.run(0.2)
        scene.rcodes()
        scene.ask(*names)
        scene.run(2.0)
        expected = {ident: 2 if name.startswith("bad") else 0 for ident, name in enumerate(names)}
        self.assertEqual(expected, scene.rcodes())
        for seen in scene.seen:
            self.assertLessEqual(max(seen.values(), default=0), 3)
        total = sum(scene.seen, Counter())
        self.assertLessEqual(max(total.values()), 3)
        self.assertEqual([0] * servers, [upstream.tier for upstream in scene.upstreams])

    def test_server_that_closes_after_each_reply_answers_all(self) -> None:
        """
        A hundred queries at once are all answered, and none is sent more than three times.
        """
        for after in (1, 2, 3):
            scene = HangingUp(after=after)
            scene.ask(*[f"good{number}.test." for number in range(100)])
            scene.run(3.0)
            self.assertEqual(dict.fromkeys(range(100), 0), scene.rcodes())
            self.assertLessEqual(max(scene.seen[0].values()), 3)

    def test_bad_zone_is_isolated_after_three_names(self) -> None:
        """
        After three names below it the shared connection is no longer ended.
        """
        scene = HangingUp()
        for number in range(3):
            scene.ask(f"bad{number}.ads.test.")
            scene.run(1.0)
        shared = scene.servers[0].connections[0]
        for number in range(3, 20):
            scene.ask(f"bad{number}.ads.test.", "good.test.")
            scene.run(0.5)
        self.assertIn(shared, scene.servers[0].connections)
        self.assertEqual({1}, {scene.seen[0][name] for name in scene.seen[0] if b"bad9" in name})
