"""
Answers that are kept, questions that are joined, and what is given when there is nothing fresh.
"""

from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.failures import FIRST
from dotproxy.cache.responses import CacheEntry, CacheSettings, ResponseCache
from dotproxy.errors import ConnectionGone, Unreachable
from dotproxy.forwarding.forwarder import STALE_AFTER
from dotproxy.policy.client import Client
from dotproxy.testing.fakes import RecordingListener
from dotproxy.wire.rewrite import EdnsRewriter
from tests.forwarding.test_forwarder import Scene

#: How long the scene's answers live, in seconds.
TTL = 60


def question(name: str = "www.lab.example.", **changes: Any) -> bytes:
    """
    A query.
    """
    return dns.message.make_query(name, "A", use_edns=changes.pop("use_edns", 0), **changes).to_wire(max_size=65535)


def reply_to(query: bytes, ttl: int = TTL, rcode: int = 0, address: str = "192.0.2.1") -> bytes:
    """
    An upstream's answer.
    """
    asked = dns.message.from_wire(query)
    reply = dns.message.make_response(asked, recursion_available=True)
    reply.set_rcode(rcode)
    name = asked.question[0].name.to_text()
    if not rcode:
        reply.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", address))
    elif rcode == dns.rcode.NXDOMAIN:
        reply.authority.append(
            dns.rrset.from_text("lab.example.", ttl, "IN", "SOA", f"ns.lab.example. a.lab.example. 1 2 3 4 {ttl}")
        )
    return reply.to_wire()


class CachedScene(Scene):
    """
    A forwarder with a cache, whose upstreams a test answers for.
    """

    def __init__(self, upstreams: int = 1, *, stale_for: float = 86400.0, **settings: Any) -> None:
        self.cache = ResponseCache(CacheSettings(stale_for=stale_for), entries=100, octets=10**6)
        settings.setdefault("rewriter", EdnsRewriter())
        super().__init__(upstreams, cache=self.cache, **settings)

    @property
    def asked(self) -> list[bytes]:
        """
        What the first upstream was asked and has not answered.
        """
        return [sent for _, sent, _ in self.upstreams[0].asked]

    def reply(self, **changes: Any) -> None:
        """
        The first upstream answers the oldest question.
        """
        self.upstreams[0].answer(reply_to(self.asked[0], **changes))

    def know(self, query: bytes, **changes: Any) -> dns.message.Message:
        """
        Ask, and have it answered.
        """
        self.ask(query)
        self.reply(**changes)
        return self.answer()

    def pass_time(self, seconds: float) -> None:
        """
        Let time pass, in small steps.
        """
        self.clock.pump([0.1] * round(seconds * 10))


def ttl_of(message: dns.message.Message) -> int:
    """
    The TTL of an answer's first record.
    """
    return (message.answer or message.authority)[0].ttl


def errors_of(message: dns.message.Message) -> list[int]:
    """
    The codes of its Extended DNS Errors.
    """
    return [int(option.code) for option in message.options if option.otype == dns.edns.OptionType.EDE]


class KeptTests(SynchronousTestCase):
    """
    An answer that is fresh.
    """

    def test_hit_has_the_clients_spelling_and_the_remaining_ttl(self) -> None:
        """
        A hit has the spelling of its own query and the remaining TTL (RFC 2181 §8, RFC 4343 §4.1).
        """
        scene = CachedScene()
        self.assertEqual(TTL, ttl_of(scene.know(question())))
        scene.pass_time(10.5)
        for query in (question("WWW.lab.EXAMPLE."), question(use_edns=-1), question(id=7)):
            scene.ask(query)
            answer = scene.answer()
            asked = dns.message.from_wire(query)
            self.assertTrue(asked.is_response(answer))
            self.assertEqual(asked.question[0].name.to_text(), answer.question[0].name.to_text())
            self.assertEqual((asked.edns >= 0, TTL - 11), (answer.edns >= 0, ttl_of(answer)))
        self.assertEqual([], scene.asked)

    def test_expired_entry_is_refetched(self) -> None:
        """
        After its TTL the query is forwarded again.
        """
        scene = CachedScene()
        scene.know(question())
        scene.pass_time(TTL)
        scene.ask(question())
        self.assertEqual(1, len(scene.asked))

    def test_same_octets_hit_the_packet_cache_within_the_second(self) -> None:
        """
        The very same octets are answered from memory for the rest of the second, and not for longer; another
        transport has an answer of its own.
        """
        scene = CachedScene()
        scene.clock.advance(100.2)
        scene.know(question())
        stream = RecordingListener(is_stream=True)
        for seconds, ttl in ((0.3, TTL - 1), (0.3, TTL - 1), (0.5, TTL - 2)):
            scene.clock.advance(seconds)
            scene.ask(question(), question())
            self.assertEqual([ttl, ttl], [ttl_of(answer) for answer in scene.answers()])
        scene.ask(question(), listener=stream)
        self.assertEqual(1, len(stream.answers))

    def test_ttl_never_exceeds_the_remaining_ttl(self) -> None:
        """
        The age is rounded up, to the end of the second for which the answer is remembered: whenever an answer is asked
        for, from the cache or from memory, over either transport, its TTL is no more than what is left of the
        upstream's, and no more than 2 s less (RFC 1035 §3.2.1, RFC 2181 §8); the first client gets the upstream's.
        """
        for arrival in (0.0, 0.001, 0.25, 0.5, 0.999):
            scene = CachedScene()
            scene.clock.advance(100 + arrival)
            self.assertEqual(9, ttl_of(scene.know(question(), ttl=9)))
            for _ in range(90):
                stream = RecordingListener(is_stream=True)
                scene.ask(question(), question(id=9))
                scene.ask(question(), question(options=[dns.edns.GenericOption(12, bytes(1600))]), listener=stream)
                left = 109 + arrival - scene.clock.seconds()
                if scene.asked:
                    break
                told = [ttl_of(dns.message.from_wire(octets)) for octets, _ in stream.answers]
                told += map(ttl_of, scene.answers())
                self.assertEqual(4, len(told))
                for ttl in told:
                    self.assertLessEqual(ttl, left)
                    self.assertGreaterEqual(ttl, max(0, left - 2))
                scene.clock.advance(0.109)
            self.assertEqual((1, True), (len(scene.asked), left < 0.001))

    def test_entry_stored_before_the_machine_started_has_its_age(self) -> None:
        """
        An entry of the cache file may have a time below 0 on the machine's clock.
        """
        scene = CachedScene()
        scene.know(question())
        ((key, (stored, expires, answer)),) = scene.cache.entries()
        scene.cache.flush()
        scene.cache.restore([(key, CacheEntry(stored - 0.5, expires - 0.5, answer))], 0.0)
        scene.clock.advance(0.9)
        scene.ask(question())
        self.assertEqual(TTL - 2, ttl_of(scene.answer()))

    def test_packet_cache_entry_ends_with_its_response(self) -> None:
        """
        An answer that lived for a second is asked for anew when it has ended, and not from memory for the rest of the
        next second.
        """
        scene = CachedScene()
        scene.clock.advance(100.2)
        scene.know(question(), ttl=1)
        for moment in (100.7, 101.1):
            scene.clock.advance(moment - scene.clock.seconds())
            scene.ask(question(), question())
            self.assertEqual([0, 0], [ttl_of(answer) for answer in scene.answers()])
        scene.clock.advance(0.2)
        scene.ask(question())
        self.assertEqual((1, []), (len(scene.asked), scene.answers()))

    def test_long_query_is_not_kept_in_the_packet_cache(self) -> None:
        """
        The packet cache is bounded in octets: a long query is answered from the cache each time.
        """
        scene = CachedScene()
        scene.know(question())
        padded = question(options=[dns.edns.GenericOption(12, bytes(2000))])
        scene.ask(question(), padded, padded)
        self.assertEqual(3, len(scene.answers()))
        scene.forwarder.counted()
        scene.ask(question(), padded)
        self.assertEqual((1, 4), (scene.forwarder.counted().packet_cache_hits, scene.forwarder.counted().cache_hits))

    def test_packet_cache_is_not_used_for_refused_clients(self) -> None:
        """
        A client outside the access list gets nothing from the packet cache.
        """
        scene = CachedScene()
        scene.know(question())
        scene.ask(question())
        scene.answer()
        scene.ask(question(), client=Client("192.0.2.200", 1))
        self.assertEqual(dns.rcode.REFUSED, scene.answer().rcode())

    def test_response_with_a_cookie_is_not_kept_in_the_packet_cache(self) -> None:
        """
        A server cookie is for one client.
        """
        scene = CachedScene()
        scene.know(question())
        query = question(options=[dns.edns.GenericOption(10, b"cookie!!")])
        for octet in (b"\1", b"\2", b"\3"):
            scene.listener.options = b"\0\x0a\0\x08" + octet * 8
            scene.ask(query)
            self.assertEqual([octet * 8], [option.to_wire() for option in scene.answer().options])

    def test_hit_is_truncated_to_the_clients_size(self) -> None:
        """
        A client that takes 512 octets gets a truncated response, one that takes more the whole one.
        """
        scene = CachedScene()
        scene.ask(question())
        asked = dns.message.from_wire(scene.asked[0])
        reply = dns.message.make_response(asked)
        reply.answer.append(
            dns.rrset.from_text("www.lab.example.", TTL, "IN", "A", *[f"192.0.2.{n}" for n in range(60)])
        )
        scene.upstreams[0].answer(reply.to_wire(max_size=65535))
        scene.ask(question(use_edns=-1), question(payload=1232), question(use_edns=-1))
        sizes = [(bool(answer.flags & dns.flags.TC), len(answer.answer[0])) for answer in scene.answers()]
        self.assertEqual([(False, 60), (True, 29), (False, 60), (True, 29)], sizes)

    def test_ad_is_stored_and_sent_to_clients_that_set_it(self) -> None:
        """
        Upstreams are always asked whether it is: whoever wants to know is told so, also if the first did not ask
        (RFC 6840 §5.7, §5.8).
        """
        scene = CachedScene()
        for flags in (0, dns.flags.AD):
            scene.ask(question(flags=dns.flags.RD | flags))
            if scene.asked:
                self.assertTrue(scene.asked[0][3] & dns.flags.AD)
                reply = reply_to(scene.asked[0])
                scene.upstreams[0].answer(reply[:3] + bytes((reply[3] | dns.flags.AD,)) + reply[4:])
            self.assertEqual(flags, scene.answer().flags & dns.flags.AD)

    def test_ttl_is_capped_for_the_first_client(self) -> None:
        """
        The configured maximum TTL holds for the response to the first client, too.
        """
        scene = CachedScene()
        self.assertEqual(86400, ttl_of(scene.know(question(), ttl=10**6)))

    def test_truncated_malformed_and_error_responses_are_not_cached(self) -> None:
        """
        Neither are error responses (RFC 2181 §9, RFC 2308 §7).
        """
        scene = CachedScene()
        for rcode in (1, 4):
            self.assertEqual(rcode, scene.know(question(), rcode=rcode).rcode())
        scene.ask(question())
        self.assertEqual((1, 0), (len(scene.asked), len(scene.cache)))

    def test_transparent_proxy_caches_and_joins_nothing(self) -> None:
        """
        With ``transparent`` each query is forwarded.
        """
        scene = Scene()
        scene.ask(question(), question())
        self.assertEqual(2, len(scene.upstreams[0].asked))

    def test_flush_empties_the_packet_cache(self) -> None:
        """
        A flushed name is not answered from the packet cache either.
        """
        scene = CachedScene()
        scene.know(question())
        scene.ask(question())
        scene.answer()
        scene.cache.flush()
        scene.forwarder.cache_flushed()
        scene.ask(question())
        self.assertEqual(1, len(scene.asked))


class JoinedTests(SynchronousTestCase):
    """
    The same question, asked by many at once.
    """

    def test_same_questions_are_sent_once(self) -> None:
        """
        Each client gets the response with its own ID, spelling, EDNS and size, over its own transport.
        """
        scene = CachedScene()
        stream = RecordingListener(is_stream=True)
        scene.ask(question(id=1), question("WWW.LAB.example.", id=2, use_edns=-1))
        scene.ask(question(id=3), client=Client("127.0.0.2", 1), listener=stream)
        self.assertEqual((1, 3), (len(scene.asked), scene.forwarder.outstanding))
        scene.reply()
        answers = scene.answers()
        self.assertEqual([1, 2], [answer.id for answer in answers])
        self.assertEqual([0, -1], [answer.edns for answer in answers])
        self.assertEqual("WWW.LAB.example.", answers[1].question[0].name.to_text())
        self.assertEqual([3], [octets[1] for octets, _ in stream.answers])
        self.assertEqual(0, scene.forwarder.outstanding)

    def test_query_with_tc_is_joined_and_cached(self) -> None:
        """
        TC of a query is cleared upstream (RFC 1035 §4.1.1); the query is joined with others and answered from the
        cache.
        """
        scene = CachedScene()
        odd = question(flags=dns.flags.RD | dns.flags.TC)
        scene.ask(odd, question())
        (sent,) = scene.asked
        self.assertEqual(dns.flags.RD | dns.flags.AD, int.from_bytes(sent[2:4], "big"))
        scene.reply()
        scene.ask(odd)
        self.assertEqual([], scene.asked)
        answers = scene.answers()
        self.assertEqual(3, len(answers))
        for answer in answers:
            self.assertEqual((0, "192.0.2.1"), (answer.flags & dns.flags.TC, answer.answer[0][0].address))

    def test_same_questions_are_joined_without_a_cache(self) -> None:
        """
        Joining does not depend on the cache.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(question(id=1), question(id=2))
        self.assertEqual(1, len(scene.upstreams[0].asked))
        scene.upstreams[0].answer(reply_to(scene.upstreams[0].asked[0][1]))
        self.assertEqual([1, 2], [answer.id for answer in scene.answers()])

    def test_each_joined_query_gets_the_failure_once(self) -> None:
        """
        Each gets SERVFAIL with the reason, once.
        """
        scene = CachedScene()
        scene.ask(question(id=1), question(id=2), question(id=3, use_edns=-1))
        scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        answers = scene.answers()
        self.assertEqual([(1, 2), (2, 2), (3, 2)], [(answer.id, answer.rcode()) for answer in answers])
        self.assertEqual([[22], [22], []], [errors_of(answer) for answer in answers])

    def test_joined_queries_count_one_by_one(self) -> None:
        """
        Each joined query counts towards the limit of queries in flight.
        """
        scene = CachedScene(max_outstanding=2)
        scene.ask(*[question(id=n) for n in range(4)])
        self.assertEqual([dns.rcode.SERVFAIL] * 2, [answer.rcode() for answer in scene.answers()])
        scene.reply()
        self.assertEqual(2, len(scene.answers()))

    def test_query_after_an_uncached_response_is_forwarded(self) -> None:
        """
        A response that is not cached is not used for later queries.
        """
        scene = CachedScene()
        scene.know(question(), ttl=0)
        scene.ask(question())
        self.assertEqual(1, len(scene.asked))


class FailureTests(SynchronousTestCase):
    """
    What failed a moment ago (RFC 9520).
    """

    def fail_once(self, scene: CachedScene, rcode: int = 2) -> None:
        """
        Ask; each upstream says no, as often as it is asked.
        """
        scene.ask(question())
        while scene.asked:
            scene.reply(rcode=rcode)
        self.assertEqual(rcode, scene.answer().rcode())

    def test_servfail_is_cached_for_five_seconds(self) -> None:
        """
        The error is sent again, marked as a cached error (RFC 9520 §3.2, RFC 8914 §4.14).
        """
        for rcode in (2, 5):
            scene = CachedScene()
            self.fail_once(scene, rcode)
            scene.ask(question(), question("WWW.lab.example."))
            answers = scene.answers()
            self.assertEqual([(rcode, [13])] * 2, [(answer.rcode(), errors_of(answer)) for answer in answers])
            scene.pass_time(FIRST + 0.2)
            self.fail_once(scene, rcode)
            scene.pass_time(FIRST + 1)
            scene.ask(question())
            self.assertEqual(1, len(scene.answers()))

    def test_records_of_an_error_are_not_cached(self) -> None:
        """
        Their TTLs would not age; only RCODE and options of an error are stored.
        """
        scene = CachedScene()
        scene.ask(question())
        while scene.asked:
            reply = dns.message.from_wire(reply_to(scene.asked[0]))
            reply.set_rcode(2)
            scene.upstreams[0].answer(reply.to_wire())
        self.assertEqual((2, 1), (scene.listener.answers[0][0][3] & 15, len(scene.answer().answer)))
        scene.ask(question())
        answer = scene.answer()
        self.assertEqual((2, [13], []), (answer.rcode(), errors_of(answer), answer.answer))

    def test_timeout_is_cached_as_a_failure(self) -> None:
        """
        It is not retried at once if the upstream is up; the text has the reason.
        """
        scene = CachedScene()
        scene.ask(question())
        scene.pass_time(4.1)
        self.assertEqual([23], errors_of(scene.answer()))
        scene.ask(question())
        self.assertEqual([13], errors_of(scene.answer()))

    def test_failure_of_upstreams_that_are_down_is_not_cached(self) -> None:
        """
        The query is forwarded as soon as it is received again.
        """
        scene = CachedScene()
        scene.upstreams[0].tier = 2
        for _ in range(3):
            scene.ask(question())
            scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
            self.assertEqual([22], errors_of(scene.answer()))

    def test_network_change_clears_the_failure(self) -> None:
        """
        After a change of the network the query is forwarded at once.
        """
        scene = CachedScene()
        self.fail_once(scene)
        scene.forwarder.network_moved()
        scene.know(question())
        scene.ask(question())
        self.assertEqual(0, scene.answer().rcode())

    def test_failure_after_a_success_is_the_first_again(self) -> None:
        """
        The time a failure is cached for begins at its least again.
        """
        scene = CachedScene(stale_for=0.0)
        self.fail_once(scene)
        scene.pass_time(FIRST + 0.2)
        scene.know(question(), ttl=1)
        scene.pass_time(1.2)
        self.fail_once(scene)
        scene.pass_time(FIRST + 0.2)
        scene.ask(question())
        self.assertEqual(1, len(scene.asked))


class StaleTests(SynchronousTestCase):
    """
    What is better than nothing (RFC 8767).
    """

    def setUp(self) -> None:
        """
        An answer that has ended.
        """
        self.scene = CachedScene()
        self.scene.know(question())
        self.scene.pass_time(TTL + 1)

    def check_stale(self, message: dns.message.Message) -> None:
        """
        TTL 30, and marked (RFC 8767 §4, RFC 8914 §4.4).
        """
        self.assertEqual((0, 30, [3]), (message.rcode(), ttl_of(message), errors_of(message)))

    def test_fresh_response_in_time_is_preferred_to_stale(self) -> None:
        """
        With a fresh response in time no client gets a stale one.
        """
        self.scene.ask(question())
        self.scene.pass_time(1.5)
        self.assertEqual([], self.scene.answers())
        self.scene.reply(address="192.0.2.2")
        self.assertIn("192.0.2.2", self.scene.answer().to_text())

    def test_stale_response_is_sent_after_1_8_seconds(self) -> None:
        """
        After 1.8 s those who wait get the stale answer, and so does whoever comes then; the answer that comes late
        is kept.
        """
        self.scene.ask(question(id=1), question(id=2))
        self.scene.pass_time(STALE_AFTER - 0.2)
        self.assertEqual([], self.scene.answers())
        self.scene.pass_time(0.3)
        for answer in self.scene.answers():
            self.check_stale(answer)
        self.assertEqual(0, self.scene.forwarder.outstanding)
        self.scene.ask(question(id=3))
        self.check_stale(self.scene.answer())
        self.scene.reply()
        self.assertEqual([], self.scene.answers())
        self.scene.ask(question())
        self.assertEqual(TTL - 1, ttl_of(self.scene.answer()))

    def test_stale_response_replaces_servfail_refused_and_timeout(self) -> None:
        """
        SERVFAIL, REFUSED and a timeout give way to the stale response.
        """
        for rcode in (2, 5):
            self.setUp()
            self.scene.ask(question())
            while self.scene.asked:
                self.scene.reply(rcode=rcode)
            self.check_stale(self.scene.answer())
            self.scene.ask(question())
            self.check_stale(self.scene.answer())
            self.assertEqual([], self.scene.asked)
        self.setUp()
        self.scene.ask(question())
        self.scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        self.check_stale(self.scene.answer())

    def test_stale_response_is_sent_at_once_after_a_failure(self) -> None:
        """
        A later query is answered at once, and forwarded again when the failure has expired.
        """
        self.scene.ask(question())
        while self.scene.asked:
            self.scene.reply(rcode=2)
        self.check_stale(self.scene.answer())
        self.scene.pass_time(FIRST + 0.2)
        self.scene.ask(question())
        self.check_stale(self.scene.answer())
        self.assertEqual(1, len(self.scene.asked))
        self.scene.reply()
        self.scene.ask(question())
        self.assertEqual(TTL - 1, ttl_of(self.scene.answer()))

    def test_stale_nxdomain_has_its_own_ede(self) -> None:
        """
        A stale NXDOMAIN is marked with EDE 19 (RFC 8914 §4.20).
        """
        self.scene.know(question("no.lab.example."), rcode=3)
        self.scene.pass_time(TTL + 1)
        self.scene.ask(question("no.lab.example."))
        self.scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        answer = self.scene.answer()
        self.assertEqual((3, 30, [19]), (answer.rcode(), ttl_of(answer), errors_of(answer)))

    def test_fresh_nxdomain_replaces_the_stale_response(self) -> None:
        """
        A fresh NXDOMAIN is passed on and stored.
        """
        self.assertEqual(3, self.scene.know(question(), rcode=3).rcode())
        self.scene.ask(question())
        self.assertEqual(3, self.scene.answer().rcode())

    def test_servfail_if_stale_responses_are_off(self) -> None:
        """
        Without stale responses the client gets SERVFAIL.
        """
        scene = CachedScene(stale_for=0.0)
        scene.know(question())
        scene.pass_time(TTL + 1)
        scene.ask(question())
        scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        self.assertEqual(2, scene.answer().rcode())

    def test_popular_names_are_answered_stale_for_an_hour_without_upstreams(self) -> None:
        """
        Popular names are answered all the time, and marked; when the upstream is back, one refresh later they are fresh.
        """
        scene = self.scene
        names = [f"popular{number}.lab.example." for number in range(5)]
        for name in names:
            scene.know(question(name))
        scene.pass_time(TTL + 1)
        upstream = scene.upstreams[0]
        for minute in range(60):
            for number, name in enumerate(names):
                scene.ask(question(name, id=minute * 10 + number))
                upstream.tier = 2
                upstream.fail(Unreachable("connect", "refused"), is_final=True)
                self.check_stale(scene.answer())
            scene.pass_time(60)
        upstream.tier = 0
        for name in names:
            scene.ask(question(name))
            scene.reply()
            self.assertEqual(TTL, ttl_of(scene.answer()))

    def test_stop_sends_stale_responses_to_waiting_clients(self) -> None:
        """
        Clients that wait when the forwarder stops get the stale response.
        """
        self.scene.ask(question())
        self.scene.forwarder.stop()
        self.check_stale(self.scene.answer())
        self.assertEqual([], [call for call in self.scene.clock.getDelayedCalls() if call.active()])


class RefreshTests(SynchronousTestCase):
    """
    Asking before it is too late.
    """

    def refreshing(self) -> CachedScene:
        """
        A popular answer that is about to end, and was asked for.
        """
        scene = CachedScene()
        scene.know(question())
        scene.pass_time(10)
        scene.ask(question())
        scene.pass_time(TTL - 15)
        scene.ask(question())
        self.assertEqual(2, len(scene.answers()))
        return scene

    def test_popular_entry_is_refreshed_before_it_expires(self) -> None:
        """
        It is refetched once in the last tenth of its TTL, while clients get the stored response.
        """
        scene = self.refreshing()
        self.assertEqual((1, 0), (len(scene.asked), scene.forwarder.outstanding))
        scene.pass_time(1)
        scene.ask(question())
        self.assertEqual((1, 1), (len(scene.asked), len(scene.answers())))
        scene.reply()
        self.assertEqual([], scene.answers())
        scene.pass_time(1)
        scene.ask(question())
        self.assertEqual(TTL - 2, ttl_of(scene.answer()))

    def test_failed_refresh_is_not_seen_by_clients(self) -> None:
        """
        Clients get the stored response as before.
        """
        scene = self.refreshing()
        scene.upstreams[0].fail(ConnectionGone("read", "closed"), is_final=True)
        self.assertEqual([], scene.answers())

    def test_query_after_expiry_joins_the_refresh(self) -> None:
        """
        If the entry expires during its refresh, a query waits for the refresh.
        """
        scene = self.refreshing()
        scene.pass_time(3)
        self.assertEqual(1, len(scene.asked))
        scene.clock.advance(3)
        scene.ask(question(id=9))
        self.assertLessEqual(len(scene.asked), 1)

    def test_refresh_does_not_delay_the_drain(self) -> None:
        """
        No client waits for a refresh.
        """
        scene = self.refreshing()
        self.assertEqual([None], [self.successResultOf(scene.forwarder.drain())])
        self.assertEqual(0, len(scene.dispatcher))
