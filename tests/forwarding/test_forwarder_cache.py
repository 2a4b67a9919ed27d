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

    def test_it_is_given_again(self) -> None:
        """
        To whoever asks the same, as they spelled it, with what is left of its TTL (RFC 2181 §8, RFC 4343 §4.1).
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

    def test_it_ends(self) -> None:
        """
        After its TTL it is asked for anew.
        """
        scene = CachedScene()
        scene.know(question())
        scene.pass_time(TTL)
        scene.ask(question())
        self.assertEqual(1, len(scene.asked))

    def test_within_a_second(self) -> None:
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

    def test_no_ttl_is_more_than_what_is_left(self) -> None:
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

    def test_the_age_of_what_was_kept_before_the_clock_began(self) -> None:
        """
        An answer from the cache file may be from before the machine started, when its clock was below 0.
        """
        scene = CachedScene()
        scene.know(question())
        ((key, (stored, expires, answer)),) = scene.cache.entries()
        scene.cache.flush()
        scene.cache.restore([(key, CacheEntry(stored - 0.5, expires - 0.5, answer))], 0.0)
        scene.clock.advance(0.9)
        scene.ask(question())
        self.assertEqual(TTL - 2, ttl_of(scene.answer()))

    def test_memory_ends_with_what_is_remembered(self) -> None:
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

    def test_what_is_long_is_not_remembered(self) -> None:
        """
        The memory for a second's answers is bounded in octets: a long query is answered from the cache each time.
        """
        scene = CachedScene()
        scene.know(question())
        padded = question(options=[dns.edns.GenericOption(12, bytes(2000))])
        scene.ask(question(), padded, padded)
        self.assertEqual(3, len(scene.answers()))
        scene.forwarder.counted()
        scene.ask(question(), padded)
        self.assertEqual((1, 4), (scene.forwarder.counted().packet_cache_hits, scene.forwarder.counted().cache_hits))

    def test_what_is_remembered_is_for_clients_alone(self) -> None:
        """
        Who is not served is not served from memory either.
        """
        scene = CachedScene()
        scene.know(question())
        scene.ask(question())
        scene.answer()
        scene.ask(question(), client=Client("192.0.2.200", 1))
        self.assertEqual(dns.rcode.REFUSED, scene.answer().rcode())

    def test_what_a_listener_adds_is_not_remembered(self) -> None:
        """
        A cookie is for one client.
        """
        scene = CachedScene()
        scene.know(question())
        query = question(options=[dns.edns.GenericOption(10, b"cookie!!")])
        for octet in (b"\1", b"\2", b"\3"):
            scene.listener.options = b"\0\x0a\0\x08" + octet * 8
            scene.ask(query)
            self.assertEqual([octet * 8], [option.to_wire() for option in scene.answer().options])

    def test_it_is_truncated_for_each(self) -> None:
        """
        One that takes 512 octets gets what fits, one that takes more gets all.
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

    def test_what_was_validated(self) -> None:
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

    def test_the_end_of_what_clients_may_have(self) -> None:
        """
        TTLs are cut to what is configured for the first client as well.
        """
        scene = CachedScene()
        self.assertEqual(86400, ttl_of(scene.know(question(), ttl=10**6)))

    def test_truncated_and_broken_answers_are_not_kept(self) -> None:
        """
        Nor are errors of the server's (RFC 2181 §9, RFC 2308 §7).
        """
        scene = CachedScene()
        for rcode in (1, 4):
            self.assertEqual(rcode, scene.know(question(), rcode=rcode).rcode())
        scene.ask(question())
        self.assertEqual((1, 0), (len(scene.asked), len(scene.cache)))

    def test_no_cache_for_what_is_transparent(self) -> None:
        """
        What passes on everything keeps and joins nothing.
        """
        scene = Scene()
        scene.ask(question(), question())
        self.assertEqual(2, len(scene.upstreams[0].asked))

    def test_flushed(self) -> None:
        """
        What is flushed is not remembered either.
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

    def test_one_exchange(self) -> None:
        """
        Each gets the answer with its own ID, spelling, EDNS and size, over its own transport.
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

    def test_tc_is_no_part_of_the_question(self) -> None:
        """
        A query with TC is asked without it (RFC 1035 §4.1.1), waits with others, and is answered from the cache.
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

    def test_without_a_cache(self) -> None:
        """
        Questions are joined all the same.
        """
        scene = Scene(rewriter=EdnsRewriter())
        scene.ask(question(id=1), question(id=2))
        self.assertEqual(1, len(scene.upstreams[0].asked))
        scene.upstreams[0].answer(reply_to(scene.upstreams[0].asked[0][1]))
        self.assertEqual([1, 2], [answer.id for answer in scene.answers()])

    def test_all_of_them_fail(self) -> None:
        """
        Each is told why, once.
        """
        scene = CachedScene()
        scene.ask(question(id=1), question(id=2), question(id=3, use_edns=-1))
        scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        answers = scene.answers()
        self.assertEqual([(1, 2), (2, 2), (3, 2)], [(answer.id, answer.rcode()) for answer in answers])
        self.assertEqual([[22], [22], []], [errors_of(answer) for answer in answers])

    def test_too_many(self) -> None:
        """
        Those who wait together count one by one.
        """
        scene = CachedScene(max_outstanding=2)
        scene.ask(*[question(id=n) for n in range(4)])
        self.assertEqual([dns.rcode.SERVFAIL] * 2, [answer.rcode() for answer in scene.answers()])
        scene.reply()
        self.assertEqual(2, len(scene.answers()))

    def test_after_an_answer_it_is_asked_anew(self) -> None:
        """
        An answer that is not kept is not for those who ask later.
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

    def test_it_is_not_asked_again_at_once(self) -> None:
        """
        For five seconds the error is given again, marked as what it is (RFC 9520 §3.2, RFC 8914 §4.14).
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

    def test_its_records_are_not_given_again(self) -> None:
        """
        They would not age; only rcode and options are kept of an error.
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

    def test_a_question_that_nobody_answers(self) -> None:
        """
        Is not tried again at once, if the upstream is up; the text says why.
        """
        scene = CachedScene()
        scene.ask(question())
        scene.pass_time(4.1)
        self.assertEqual([23], errors_of(scene.answer()))
        scene.ask(question())
        self.assertEqual([13], errors_of(scene.answer()))

    def test_upstreams_that_are_down(self) -> None:
        """
        That is no failure of the question's: it is tried as soon as it is asked.
        """
        scene = CachedScene()
        scene.upstreams[0].tier = 2
        for _ in range(3):
            scene.ask(question())
            scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
            self.assertEqual([22], errors_of(scene.answer()))

    def test_it_went_well(self) -> None:
        """
        Or may go well now: nothing is held against it.
        """
        scene = CachedScene()
        self.fail_once(scene)
        scene.forwarder.network_moved()
        scene.know(question())
        scene.ask(question())
        self.assertEqual(0, scene.answer().rcode())

    def test_what_went_well_is_forgotten(self) -> None:
        """
        A failure after an answer is the first again.
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

    def test_a_fresh_answer_in_time(self) -> None:
        """
        If there is one, nobody gets a stale one.
        """
        self.scene.ask(question())
        self.scene.pass_time(1.5)
        self.assertEqual([], self.scene.answers())
        self.scene.reply(address="192.0.2.2")
        self.assertIn("192.0.2.2", self.scene.answer().to_text())

    def test_patience_ends(self) -> None:
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

    def test_failures(self) -> None:
        """
        SERVFAIL, REFUSED and silence give way to what is stale.
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

    def test_nobody_is_kept_waiting_twice(self) -> None:
        """
        What failed before is answered at once, and asked again when it is time, for the sake of those to come.
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

    def test_that_there_is_no_such_name(self) -> None:
        """
        May be stale as well; it has a mark of its own (RFC 8914 §4.20).
        """
        self.scene.know(question("no.lab.example."), rcode=3)
        self.scene.pass_time(TTL + 1)
        self.scene.ask(question("no.lab.example."))
        self.scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        answer = self.scene.answer()
        self.assertEqual((3, 30, [19]), (answer.rcode(), ttl_of(answer), errors_of(answer)))

    def test_that_it_is_gone_counts(self) -> None:
        """
        A fresh answer that there is no such name replaces what is stale.
        """
        self.assertEqual(3, self.scene.know(question(), rcode=3).rcode())
        self.scene.ask(question())
        self.assertEqual(3, self.scene.answer().rcode())

    def test_off(self) -> None:
        """
        If nothing may be stale, there is SERVFAIL.
        """
        scene = CachedScene(stale_for=0.0)
        scene.know(question())
        scene.pass_time(TTL + 1)
        scene.ask(question())
        scene.upstreams[0].fail(Unreachable("connect", "refused"), is_final=True)
        self.assertEqual(2, scene.answer().rcode())

    def test_an_hour_without_upstreams(self) -> None:
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

    def test_stopping(self) -> None:
        """
        Who waits when everything ends gets what is stale.
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

    def test_what_is_popular_never_ends(self) -> None:
        """
        It is asked for in the last tenth of its life, once, while clients get what there is.
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

    def test_it_fails(self) -> None:
        """
        Nobody notices.
        """
        scene = self.refreshing()
        scene.upstreams[0].fail(ConnectionGone("read", "closed"), is_final=True)
        self.assertEqual([], scene.answers())

    def test_whoever_comes_too_late_waits_with_it(self) -> None:
        """
        If it has ended while it was asked for.
        """
        scene = self.refreshing()
        scene.pass_time(3)
        self.assertEqual(1, len(scene.asked))
        scene.clock.advance(3)
        scene.ask(question(id=9))
        self.assertLessEqual(len(scene.asked), 1)

    def test_it_does_not_hold_up_the_end(self) -> None:
        """
        Nobody waits for it when everything ends.
        """
        scene = self.refreshing()
        self.assertEqual([None], [self.successResultOf(scene.forwarder.drain())])
        self.assertEqual(0, len(scene.dispatcher))
