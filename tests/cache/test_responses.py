"""
The cache, beside a model of it that is slow and obvious: RFC 2181, RFC 2308 and RFC 8767, read off the page.
"""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache import responses
from dotproxy.cache.key import key_of
from dotproxy.cache.responses import STALE_TTL, CacheEntry, CacheSettings, ResponseCache
from dotproxy.cache.ttl import Limits
from dotproxy.wire.message import parse_query
from dotproxy.wire.names import from_text
from dotproxy.wire.rewrite import EdnsRewriter
from tests import rounds

REWRITER = EdnsRewriter()


def fresh(cache: ResponseCache, key: bytes, now: float) -> CacheEntry | None:
    """
    What the cache has, if it is fresh.
    """
    entry = cache.peek(key)
    return entry if entry is not None and now < entry.expires_at else None


STALE_FOR = 1000.0
NAMES = ["www.test.", "WWW.test.", "a.www.test.", "test.", "x\\004test.", "."]
TYPES = ["A", "MX"]
#: 2026-11-21, in seconds since 1970.
DATE = 1795219200


def record(name: str, ttl: int, rtype: str, text: str) -> dns.rrset.RRset:
    """
    One record; a TTL may be any of 32 bits, which dnspython does not like.
    """
    made = dns.rrset.from_text(name, 0, "IN", rtype, text)
    made.ttl = ttl
    return made


def signature(ttl: int, expires: int, covered: str = "A") -> dns.rrset.RRset:
    """
    A signature that ends so many seconds after ``DATE``.
    """
    end = dns.rdata.from_text("IN", "RRSIG", f"{covered} 8 2 60 {DATE + expires} {DATE - 1000} 1 test. AAAA")
    made = dns.rrset.from_rdata("www.test.", 0, end)
    made.ttl = ttl
    return made


class Model:
    """
    What a cache is: everything that was ever stored, with when, and rules.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.kept: dict[tuple[Any, ...], tuple[float, int, list[tuple[str, str, int]], int]] = {}

    def store(self, question: tuple[Any, ...], reply: dns.message.Message, now: float) -> None:
        """
        Keep a reply, if the RFCs let it be kept.
        """
        lifetime, records = self.judge(question, reply)
        if lifetime > 0:
            self.kept[question] = now, lifetime, records, int(reply.rcode())

    def judge(self, question: tuple[Any, ...], reply: dns.message.Message) -> tuple[int, list[tuple[str, str, int]]]:
        """
        For how long, and its records with their TTLs.
        """
        _, rtype, _, _ = question
        if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return 0, []
        answers = any(rrset.rdtype == dns.rdatatype.from_text(rtype) for rrset in reply.answer)
        is_negative = reply.rcode() == dns.rcode.NXDOMAIN or not answers
        records: list[tuple[str, str, int]] = []
        lifetime = self.limits.most
        has_soa = False
        for section in (reply.answer, reply.authority, reply.additional):
            for rrset in section:
                ttl = rrset.ttl if rrset.ttl < 2**31 else 0  # RFC 2181 §8
                is_soa = is_negative and section is reply.authority and rrset.rdtype == dns.rdatatype.SOA
                if is_soa:
                    has_soa = True
                    ttl = min(rrset.ttl, rrset[0].minimum)  # RFC 2308 §5
                    ttl = min(max(ttl, self.limits.least), self.limits.negative)
                else:
                    ttl = min(max(ttl, self.limits.least), self.limits.most)
                if rrset.rdtype == dns.rdatatype.RRSIG:
                    lifetime = min(lifetime, max(0, rrset[0].expiration - DATE))  # RFC 4035 §5.3.3
                records.append((rrset.name.to_text().lower(), dns.rdatatype.to_text(rrset.rdtype), ttl))
                lifetime = min(lifetime, ttl)
        if is_negative and not has_soa:
            return 0, []
        return (lifetime if records else 0), records

    def fresh(self, question: tuple[Any, ...], now: float) -> tuple[int, list[tuple[str, str, int]]] | None:
        """
        The rcode and the records now, if there is a fresh answer.
        """
        if question not in self.kept:
            return None
        stored, lifetime, records, rcode = self.kept[question]
        if now >= stored + lifetime:
            return None
        return rcode, [(name, rtype, max(0, ttl - int(now - stored))) for name, rtype, ttl in records]

    def stale(self, question: tuple[Any, ...], now: float) -> tuple[int, list[tuple[str, str, int]]] | None:
        """
        What may be given if there is nothing better.
        """
        if question not in self.kept:
            return None
        stored, lifetime, records, rcode = self.kept[question]
        if now >= stored + lifetime + STALE_FOR:
            return None
        return rcode, [(name, rtype, STALE_TTL) for name, rtype, _ in records]

    def flush(self, name: str, *, subtree: bool) -> None:
        """
        Forget a name, or all below it too.
        """
        wanted = dns.name.from_text(name.lower())
        for question in tuple(self.kept):
            asked = dns.name.from_text(question[0])
            if asked == wanted or (subtree and asked.is_subdomain(wanted)):
                del self.kept[question]


ttls = st.one_of(
    st.integers(0, 100), st.integers(3000, 5000), st.integers(86000, 90000), st.just(2**31), st.just(2**32 - 1)
)


@st.composite
def replies(draw: st.DrawFn, question: tuple[Any, ...]) -> dns.message.Message:
    """
    What an upstream may say.
    """
    name, rtype, do, cd = question
    query = make_query(name, rtype, do=do, cd=cd)
    reply = dns.message.make_response(query, recursion_available=True)
    reply.set_rcode(draw(st.sampled_from([0, 0, 0, 0, 3, 3, 2, 5])))
    for section in (reply.answer, reply.additional):
        for text in draw(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2"]), max_size=2, unique=True)):
            owner = name if section is reply.answer else f"ns{text[-1]}.test."
            section.append(record(owner, draw(ttls), "A", text))
    if draw(st.booleans()):
        reply.answer.append(record(name, draw(ttls), "CNAME", "elsewhere.test."))
    if draw(st.booleans()):
        reply.answer.append(signature(draw(ttls), draw(st.integers(-100, 200))))
    if draw(st.booleans()):
        minimum = draw(st.integers(0, 5000))
        reply.authority.append(record("test.", draw(ttls), "SOA", f"ns.test. admin.test. 1 2 3 4 {minimum}"))
    return reply


def make_query(name: str, rtype: str, *, do: bool, cd: bool) -> dns.message.Message:
    """
    A query.
    """
    query = dns.message.make_query(name, rtype, want_dnssec=do)
    if cd:
        query.flags |= dns.flags.CD
    return query


questions = st.tuples(st.sampled_from(NAMES), st.sampled_from(TYPES), st.booleans(), st.booleans())
steps = st.lists(
    st.one_of(
        questions.flatmap(lambda question: st.tuples(st.just("store"), st.just(question), replies(question))),
        st.tuples(st.just("look"), questions, st.booleans()),
        st.tuples(st.just("wait"), st.floats(0, 50), st.none()),
        st.tuples(st.just("wait"), st.floats(0, 5000), st.none()),
        st.tuples(st.just("flush"), st.sampled_from([*NAMES, "*"]), st.booleans()),
    ),
    max_size=30,
)


def wire_of(message: dns.message.Message) -> bytes:
    """
    A message with TTLs of any 32 bits.
    """
    return message.to_wire()


class CacheTests(SynchronousTestCase):
    """
    The cache and the model agree.
    """

    @settings(max_examples=rounds(150, quick=30), deadline=None)
    @given(steps, st.sampled_from([Limits(), Limits(10, 4000, 60)]))
    def test_any_sequence_of_operations_agrees_with_the_model(self, taken: list[Any], limits: Limits) -> None:
        """
        Any sequence of stores, look-ups, time and flushes (RFC 2181 §8, RFC 2308 §5, RFC 8767).
        """
        cache = ResponseCache(CacheSettings(limits=limits, stale_for=STALE_FOR), entries=1000, octets=10**7)
        model = Model(limits)
        now = 1000.0
        for step, what, how in taken:
            if step == "wait":
                now += what
            elif step == "flush":
                self.flush(cache, model, what, subtree=how)
            else:
                name, rtype, do, cd = what
                question = (name.lower(), rtype, do, cd)
                query = make_query(name, rtype, do=do, cd=cd)
                wire = query.to_wire()
                info = parse_query(wire)
                key = key_of(wire, info)
                if step == "store":
                    answer = REWRITER.parse_response(wire, info, wire_of(how))
                    given = cache.add(key, answer, info.qtype, now, DATE)  # type: ignore[arg-type]
                    before = model.kept.get(question)
                    model.store(question, how, now)
                    if model.kept.get(question) is not before:
                        self.assertEqual(model.fresh(question, now), self.shown(wire, given, 0))
                entry = fresh(cache, key, now)
                shown = self.shown(wire, entry.response, int(now - entry.stored_at)) if entry else None
                self.assertEqual(model.fresh(question, now), shown)
                stale = cache.stale(key, now)
                self.assertEqual(model.stale(question, now), self.shown(wire, stale, 0) if stale else None)

    def flush(self, cache: ResponseCache, model: Model, what: str, *, subtree: bool) -> None:
        """
        Flush both.
        """
        if what == "*":
            self.assertEqual(len(model.kept), cache.flush())
            model.kept.clear()
            return
        before = len(model.kept)
        model.flush(what, subtree=subtree)
        flushed = (cache.flush_subtree if subtree else cache.flush_name)(from_text(what))
        self.assertEqual(before - len(model.kept), flushed)

    def shown(self, wire: bytes, answer: Any, age: int) -> tuple[int, list[tuple[str, str, int]]]:
        """
        The rcode and the records a client gets.
        """
        reply = dns.message.from_wire(
            REWRITER.build_response(wire, parse_query(wire), answer, age), one_rr_per_rrset=True
        )
        return int(reply.rcode()), [
            (rrset.name.to_text().lower(), dns.rdatatype.to_text(rrset.rdtype), rrset.ttl)
            for section in (reply.answer, reply.authority, reply.additional)
            for rrset in section
        ]


class MoreTests(SynchronousTestCase):
    """
    What the model does not know of.
    """

    def setUp(self) -> None:
        """
        A cache.
        """
        self.cache = ResponseCache(CacheSettings(stale_for=60.0), entries=10, octets=10**6)

    def add(
        self, name: str = "www.test.", ttl: int = 100, now: float = 0.0, rcode: int = 0, options: bytes = b""
    ) -> bytes:
        """
        Keep an answer; return its key.
        """
        query = dns.message.make_query(name, "A", use_edns=0)
        reply = dns.message.make_response(query)
        reply.set_rcode(rcode)
        if rcode:
            reply.authority.append(record("test.", ttl, "SOA", f"ns.test. admin.test. 1 2 3 4 {ttl}"))
        else:
            reply.answer.append(record(name, ttl, "A", "192.0.2.1"))
        wire = query.to_wire()
        info = parse_query(wire)
        key = key_of(wire, info)
        answer = REWRITER.parse_response(wire, info, reply.to_wire())
        self.cache.add(key, answer, 1, now, DATE)  # type: ignore[arg-type]
        return key

    def test_stale_response_has_ede_3_or_19(self) -> None:
        """
        Extended DNS Errors 3 and 19 (RFC 8914 §4.4, §4.20).
        """
        for rcode, code in ((0, 3), (3, 19)):
            key = self.add(rcode=rcode)
            self.assertIsNone(fresh(self.cache, key, 100.0))
            stale = self.cache.stale(key, 159.9)
            assert stale is not None
            self.assertEqual(b"\0\x0f\0\2\0" + bytes((code,)), stale.options)
            self.assertIsNone(self.cache.stale(key, 160.0))

    def test_stale_response_is_built_once(self) -> None:
        """
        All clients get the same octets, built once; the fresh entry stays as it is.
        """
        key = self.add()
        fresh_one = self.cache.peek(key)
        self.assertIsNotNone(self.cache.stale(key, 50.0))
        self.assertIs(fresh_one, self.cache.peek(key))
        octets = self.cache.octets
        first, second = self.cache.stale(key, 100.0), self.cache.stale(key, 120.0)
        assert first is not None
        assert second is not None
        self.assertEqual([STALE_TTL], [record.ttl for record in first.records()])
        self.assertIs(first.body, second.body)
        self.assertEqual((first, octets), (second, self.cache.octets))
        self.assertIsNone(self.cache.stale(key, 160.0))

    def test_stale_responses_can_be_switched_off(self) -> None:
        """
        With 0 an expired entry is a miss.
        """
        self.cache = ResponseCache(CacheSettings(), entries=10, octets=10**6)
        self.assertIsNone(self.cache.stale(self.add(), 100.0))

    def refreshes(self, key: bytes, *times: float) -> list[bool]:
        """
        Whether it should be asked for anew, each time it is asked for.
        """
        found: list[bool] = []
        for now in times:
            entry = fresh(self.cache, key, now)
            assert entry is not None
            found.append(self.cache.note_hit(key, entry, now))
        return found

    def test_entry_hit_before_is_refreshed_in_its_last_tenth(self) -> None:
        """
        In the last tenth of its TTL, if it had a hit before in that life.
        """
        key = self.add()
        self.assertEqual([False, False, True], self.refreshes(key, 1.0, 89.9, 90.1))
        key = self.add(now=95.0)
        self.assertEqual([False, True], self.refreshes(key, 190.0, 191.0))

    def test_entry_with_a_short_ttl_is_not_refreshed(self) -> None:
        """
        It would be refreshed again and again.
        """
        self.assertEqual([False, False], self.refreshes(self.add(ttl=9), 8.5, 8.9))

    def test_refreshes_are_bounded_by_a_tenth_of_the_queries(self) -> None:
        """
        A small burst, then a tenth of the clients' queries.
        """
        key = self.add()
        self.refreshes(key, 1.0)
        self.assertEqual(20, sum(self.refreshes(key, *[95.0] * 50)))
        self.cache.credit_prefetch(30)
        self.assertEqual(3, sum(self.refreshes(key, *[95.0] * 50)))

    def test_refresh_can_be_switched_off(self) -> None:
        """
        Then no entry is refreshed.
        """
        self.cache = ResponseCache(CacheSettings(prefetches=False), entries=10, octets=10**6)
        self.assertEqual([False, False], self.refreshes(self.add(), 1.0, 95.0))

    def test_entry_is_refreshed_below_a_tenth_of_a_ttl_of_10_seconds_at_least(self) -> None:
        """
        With less than a tenth of its life left, if that is 10 s at least.
        """
        key = self.add(ttl=10)
        self.assertEqual([False, False, True], self.refreshes(key, 1.0, 9.0, 9.01))
        key = self.add(ttl=9, now=100.0)
        self.assertEqual([False, False], self.refreshes(key, 101.0, 108.9))

    def test_reload_changes_settings_and_keeps_entries(self) -> None:
        """
        A reload may switch refreshing and stale responses on and off, and changes limits; entries stay.
        """
        key = self.add()
        self.refreshes(key, 1.0)
        self.cache.apply_settings(CacheSettings(limits=Limits(most=50), stale_for=10.0, prefetches=False))
        self.assertEqual([False], self.refreshes(key, 95.0))
        self.assertIsNotNone(self.cache.stale(key, 109.9))
        self.assertIsNone(self.cache.stale(key, 110.0))
        other = self.add("other.test.")
        entry = self.cache.peek(other)
        assert entry is not None
        self.assertEqual(50.0, entry[1] - entry[0])
        self.cache.apply_settings(CacheSettings())
        self.assertEqual([False, True], self.refreshes(self.add("third.test."), 1.0, 95.0))

    def test_repr_counts_entries(self) -> None:
        """
        Entries, the octets of memory they take, and how many were evicted.
        """
        self.assertEqual("<ResponseCache: 0 entries, 0 octets, 0 evicted>", repr(self.cache))
        for number in range(11):
            self.add(f"{number}.test.")
        self.assertEqual(f"<ResponseCache: 10 entries, {self.cache.octets} octets, 1 evicted>", repr(self.cache))

    def test_entry_from_up_to_a_second_in_the_future_is_accepted(self) -> None:
        """
        Clocks may differ by a second.
        """
        key = self.add(now=101.0)
        before = dict(self.cache.entries())
        for now, is_taken in ((100.0, True), (99.9, False)):
            self.cache.flush()
            self.cache.restore(before.items(), now)
            self.assertEqual(is_taken, key in self.cache, now)

    def test_loaded_entry_is_stored_unless_a_better_one_exists(self) -> None:
        """
        A loaded entry is stored unless there is a better one or it has expired for good.
        """
        keys = [self.add(f"n{number}.test.", now=number) for number in range(3)]
        before = dict(self.cache.entries())
        self.cache.flush()
        self.add("n1.test.", now=200.0)
        self.cache.restore(before.items(), 161.5)
        held = dict(self.cache.entries())
        self.assertEqual({keys[1], keys[2]}, held.keys())
        self.assertEqual((200.0, 2.0), (held[keys[1]][0], held[keys[2]][0]))
        self.assertEqual((2, True), (len(self.cache), keys[1] in self.cache))

    def test_loaded_entry_from_the_future_is_rejected(self) -> None:
        """
        The clock was wrong when it was stored, or is now.
        """
        self.add(now=1000.0)
        before = dict(self.cache.entries())
        self.cache.flush()
        self.cache.restore(before.items(), 500.0)
        self.assertEqual(0, len(self.cache))

    def test_flush_of_a_subtree_respects_label_boundaries(self) -> None:
        """
        A name that has the octets of another inside a label is not below it.
        """
        for name in ("x\\004test.", "xtest.", "test.", "www.test."):
            self.add(name)
        self.assertEqual(2, self.cache.flush_subtree(from_text("TEST.")))
        self.assertEqual(2, self.cache.flush_subtree(from_text(".")))

    def test_size_and_evictions_are_reported(self) -> None:
        """
        Number of entries, octets and evictions.
        """
        for number in range(15):
            self.add(f"n{number}.test.")
        self.assertEqual((10, 5), (len(self.cache), self.cache.evicted))
        self.assertGreater(self.cache.octets, 10 * 400)

    def test_octets_of_an_entry(self) -> None:
        """
        445 octets besides those of the key and of the body, and 8 for each record; 40 if their offsets go beyond 256.
        """
        key = self.add()
        entry = self.cache.peek(key)
        assert entry is not None
        self.assertEqual(445 + len(key) + len(entry.response.body) + 8, self.cache.octets)
        for last, of_each in ((255, 8), (256, 8), (257, 40), (300, 40)):
            response = entry.response._replace(body=bytes(400), ttl_offsets=(6, last), options=b"")
            size = responses._size_of(key, entry._replace(response=response))
            self.assertEqual(445 + len(key) + 400 + 2 * of_each, size, last)

    def test_octets_of_a_hit(self) -> None:
        """
        That an entry was asked for takes 90 octets, once.
        """
        key = self.add()
        entry = self.cache.peek(key)
        assert entry is not None
        before = self.cache.octets
        for _ in range(3):
            self.cache.note_hit(key, entry, 1.0)
            self.assertEqual(90, self.cache.octets - before)
