"""
Questions and zones that are kept apart.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.quarantine import MAX_ENTRIES, QUARANTINE_SECONDS, Quarantine, name_and_ancestors, question_key
from dotproxy.testing.client import make_query
from dotproxy.wire.message import question_of
from dotproxy.wire.rrtypes import TXT, A


def key(name: str, qtype: int = A) -> bytes:
    """
    The key of a question.
    """
    query = make_query(name, qtype)
    return question_key(query, question_of(query))


class KeyTests(SynchronousTestCase):
    """
    What identifies a question.
    """

    def test_case_does_not_matter_and_the_type_does(self) -> None:
        """
        Names are compared without case (RFC 4343), types as they are.
        """
        self.assertEqual(key("www.test."), key("WwW.tEST."))
        self.assertNotEqual(key("www.test."), key("www.test.", TXT))
        self.assertNotEqual(key("www.test.", 0x41), key("www.test.", 0x61))

    def test_name_and_its_parents_are_keys(self) -> None:
        """
        The name itself, then its parents, but not the root; of a long name the last eight.
        """
        self.assertEqual([b"\1a\4test\0", b"\4test\0"], name_and_ancestors(b"\1a\4test\0"))
        self.assertEqual([], name_and_ancestors(b"\0"))
        self.assertEqual([b"\1x" * n + b"\0" for n in range(8, 0, -1)], name_and_ancestors(b"\1x" * 100 + b"\0"))


class QuarantineTests(SynchronousTestCase):
    """
    What is kept apart, and for how long.
    """

    def setUp(self) -> None:
        """
        Nothing is known.
        """
        self.quarantine = Quarantine()

    def holds(self, name: str, now: float = 0.0, qtype: int = A) -> bool:
        """
        Whether a question is kept apart.
        """
        return self.quarantine.contains(key(name, qtype), now)

    def test_question_is_quarantined_for_a_minute(self) -> None:
        """
        A question that ended a connection is isolated for a minute; others below its name are not.
        """
        self.quarantine.add(key("x.ads.test."), 0.0)
        self.assertTrue(self.holds("x.ads.test."))
        self.assertFalse(self.holds("x.ads.test.", qtype=TXT))
        self.assertFalse(self.holds("y.ads.test."))
        self.assertTrue(self.holds("x.ads.test.", QUARANTINE_SECONDS - 0.1))
        self.assertFalse(self.holds("x.ads.test.", QUARANTINE_SECONDS))

    def test_three_questions_below_a_name_quarantine_the_zone(self) -> None:
        """
        After three questions below a name all below it are isolated, names above are not.
        """
        for name in ("a.ads.test.", "b.ads.test."):
            self.quarantine.add(key(name), 0.0)
        self.assertFalse(self.holds("c.ads.test."))
        self.quarantine.add(key("c.x.ads.test."), 1.0)
        self.assertTrue(self.holds("d.ads.test.", 2.0))
        self.assertTrue(self.holds("ads.test.", 2.0))
        self.assertFalse(self.holds("www.test.", 2.0))
        self.assertFalse(self.holds("d.ads.test.", 1.0 + QUARANTINE_SECONDS))

    def test_each_lost_connection_prolongs_the_zone(self) -> None:
        """
        Each connection that a question under it ends prolongs it.
        """
        for n in range(3):
            self.quarantine.add(key(f"{n}.ads.test."), 0.0)
        self.quarantine.add(key("later.ads.test."), QUARANTINE_SECONDS - 1)
        self.assertTrue(self.holds("d.ads.test.", QUARANTINE_SECONDS + 30))

    def test_repeated_question_makes_no_zone(self) -> None:
        """
        Only different questions count.
        """
        for _ in range(10):
            self.quarantine.add(key("a.ads.test."), 0.0)
        self.assertFalse(self.holds("b.ads.test."))

    def test_reply_ends_the_quarantine_of_its_question(self) -> None:
        """
        A question that is answered is not isolated any more, nor the zone it is in; the questions that ended
        connections are.
        """
        for n in range(3):
            self.quarantine.add(key(f"{n}.ads.test."), 0.0)
        self.quarantine.remove(key("good.ads.test."))
        self.assertFalse(self.holds("other.ads.test."))
        self.assertTrue(self.holds("1.ads.test."))
        self.quarantine.remove(key("1.ads.test."))
        self.assertFalse(self.holds("1.ads.test."))

    def test_an_answer_ends_the_count_of_its_zone(self) -> None:
        """
        Three questions make a zone only if none under it was answered in between.
        """
        for name in ("a.ads.test.", "b.ads.test."):
            self.quarantine.add(key(name), 0.0)
        self.quarantine.remove(key("good.ads.test."))
        for name, is_zone in (("c.ads.test.", False), ("d.ads.test.", False), ("e.ads.test.", True)):
            self.quarantine.add(key(name), 0.0)
            self.assertEqual(is_zone, self.holds("other.ads.test."), name)

    def test_2000_questions_are_remembered(self) -> None:
        """
        The next one takes the place of the oldest.
        """
        for number in range(2000):
            self.quarantine.add(key(f"a.b{number}."), 0.0)
        self.assertTrue(self.holds("a.b0."))
        self.quarantine.add(key("a.next."), 0.0)
        self.assertEqual((False, True, True), (self.holds("a.b0."), self.holds("a.b1."), self.holds("a.next.")))

    def test_an_answered_question_is_not_isolated(self) -> None:
        """
        Others are, until they are answered.
        """
        for name in ("a.one.test.", "a.two.example."):
            self.quarantine.add(key(name), 0.0)
        self.quarantine.remove(key("a.one.test."))
        self.assertEqual((False, True), (self.holds("a.one.test."), self.holds("a.two.example.")))

    def test_replies_below_a_name_prevent_its_zone(self) -> None:
        """
        A name such as a top-level domain, below which others are answered meanwhile, becomes no zone.
        """
        for n in range(20):
            self.quarantine.add(key(f"ads{n}.com."), 0.0)
            self.quarantine.remove(key(f"www{n}.com."))
        self.assertFalse(self.holds("shop.com."))

    def test_number_of_entries_is_bounded(self) -> None:
        """
        The latest entries are kept.
        """
        for n in range(3 * MAX_ENTRIES):
            self.quarantine.add(key(f"x{n}.t{n}."), 0.0)
        self.assertFalse(self.holds("x0.t0."))
        self.assertTrue(self.holds(f"x{3 * MAX_ENTRIES - 1}.t{3 * MAX_ENTRIES - 1}."))
        for known in (self.quarantine._questions, self.quarantine._zones, self.quarantine._counts):
            self.assertLessEqual(len(known), MAX_ENTRIES)

    def test_count_restarts_after_a_quiet_minute(self) -> None:
        """
        After a quiet minute the count begins anew.
        """
        for n in range(2):
            self.quarantine.add(key(f"{n}.ads.test."), 0.0)
        self.quarantine.add(key("2.ads.test."), QUARANTINE_SECONDS + 1)
        self.assertFalse(self.holds("3.ads.test.", QUARANTINE_SECONDS + 2))

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=30))
    def test_last_event_decides_whether_a_question_is_quarantined(self, steps: list[tuple[int, int, bool]]) -> None:
        """
        After any sequence: a question answered last is free, one that ended a connection last is not.
        """
        last: dict[str, bool] = {}
        for host, zone, is_answer in steps:
            name = f"h{host}.z{zone}.test."
            last[name] = is_answer
            (self.quarantine.remove(key(name)) if is_answer else self.quarantine.add(key(name), 0.0))
            self.assertEqual(not is_answer, self.holds(name))
        for name, is_answer in last.items():
            if not is_answer:
                self.assertTrue(self.holds(name))
        self.quarantine.clear()
        self.assertFalse(any(self.holds(name) for name in last))
