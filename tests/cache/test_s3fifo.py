"""
The store: bounds, and what has to go.
"""

import random
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.s3fifo import Store


def make_store(entries: int = 10, octets: int = 10**6) -> Store[bytes]:
    """
    A store of octets that counts their lengths.
    """
    return Store(entries, octets, lambda key, value: len(key) + len(value))


def key_of(number: int) -> bytes:
    """
    A key.
    """
    return b"k%d" % number


class StoreTests(SynchronousTestCase):
    """
    What is kept.
    """

    def test_put_get_replace_and_remove(self) -> None:
        """
        Put, look up, replace, remove.
        """
        store = make_store()
        self.assertIsNone(store.get(b"a"))
        store.put(b"a", b"1")
        self.assertEqual((b"1", b"1", 1, 2), (store.get(b"a"), store.peek(b"a"), len(store), store.octets))
        store.put(b"a", b"222")
        self.assertEqual((b"222", 4), (store.get(b"a"), store.octets))
        self.assertEqual(1, store.remove([b"a", b"b"]))
        self.assertEqual((None, 0, 0), (store.get(b"a"), len(store), store.octets))

    def test_hit_is_recorded_until_the_value_is_replaced(self) -> None:
        """
        Whether a value had a hit is known until it is replaced.
        """
        store = make_store()
        store.put(b"a", b"1")
        self.assertFalse(store.was_asked_for(b"a"))
        store.get(b"a")
        self.assertTrue(store.was_asked_for(b"a"))
        store.put(b"a", b"2")
        self.assertFalse(store.was_asked_for(b"a"))

    def test_values_with_hits_survive_a_scan(self) -> None:
        """
        A scan of ten times the store's size evicts no value that had hits.
        """
        store = make_store(100)
        popular = [key_of(n) for n in range(50)]
        for key in popular:
            store.put(key, b"popular")
            store.get(key)
        for number in range(1000, 2000):
            store.put(key_of(number), b"once")
            if number % 20 == 0:
                for key in popular:
                    store.get(key)
        self.assertEqual(50, sum(key in store for key in popular))
        self.assertEqual((100, 950), (len(store), store.evicted))

    def test_evicted_value_that_returns_survives_a_scan(self) -> None:
        """
        A value that was evicted and is put again soon survives a later scan.
        """
        store = make_store(100)
        store.put(b"again", b"1")
        for number in range(100):
            store.put(key_of(number), b"")
        self.assertNotIn(b"again", store)
        store.put(b"again", b"1")
        for number in range(1000, 2000):
            store.put(key_of(number), b"")
        self.assertIn(b"again", store)

    def test_store_is_bounded_in_octets(self) -> None:
        """
        A few large values fill it as many small ones do; one larger than the store is not stored.
        """
        store = make_store(1000, 100)
        for number in range(100):
            store.put(key_of(number), b"x" * 20)
            self.assertLessEqual(store.octets, 100)
        self.assertGreater(len(store), 2)
        store.put(b"huge", b"x" * 200)
        self.assertNotIn(b"huge", store)
        store.put(b"small", b"")
        store.put(b"small", b"x" * 200)
        self.assertLessEqual(store.octets, 100)

    def test_ghost_entries_count_towards_the_octets(self) -> None:
        """
        The memory of evicted keys takes room, too.
        """
        store: Store[bytes] = Store(10, 100, lambda key, value: len(key) + len(value), 30)
        for number in range(3):
            store.put(key_of(number), b"")
            store.get(key_of(number))
        self.assertEqual(sum(len(key_of(number)) for number in range(3)) + 90, store.octets)
        store.put(key_of(3), b"x" * 10)
        self.assertLessEqual(store.octets, 100)
        store.clear()
        self.assertEqual(0, store.octets)

    def test_store_of_one_keeps_the_latest(self) -> None:
        """
        The latest value replaces the one before it.
        """
        store = make_store(1)
        for number in range(5):
            store.put(key_of(number), b"")
            store.get(key_of(number))
        self.assertEqual([key_of(4)], [key for key, _ in store.items()])
        self.assertEqual(1, store.clear())
        self.assertEqual((0, 0), (len(store), store.octets))

    @given(
        st.lists(st.tuples(st.sampled_from("gprc"), st.integers(0, 12), st.binary(max_size=12)), max_size=200),
        st.integers(1, 8),
    )
    def test_any_sequence_of_operations_keeps_the_bounds(self, steps: list[tuple[str, int, bytes]], size: int) -> None:
        """
        After any sequence bounds hold, counts are right, and a value found is the last one put.
        """
        store = make_store(size, 60)
        latest: dict[bytes, bytes] = {}
        for step, number, value in steps:
            key = key_of(number)
            if step == "g":
                found = store.get(key)
                self.assertIn(found, (None, latest.get(key)))
            elif step == "p":
                store.put(key, value)
                latest[key] = value
            elif step == "r":
                store.remove([key])
                latest.pop(key, None)
            elif number == 0:
                store.clear()
                latest.clear()
            held = dict(store.items())
            self.assertLessEqual(len(held), size)
            self.assertEqual(sum(len(key) + len(value) for key, value in held.items()), store.octets)
            self.assertLessEqual(store.octets, 60)
            self.assertLessEqual(held.items(), latest.items())

    def test_hit_ratio_is_above_lru_with_scans(self) -> None:
        """
        With popular names between scans it has more hits than LRU.
        """
        chance = random.Random(1)
        trace: list[bytes] = []
        fresh = 1000
        for turn in range(30):
            trace += [key_of(int(chance.paretovariate(0.9)) % 1000) for _ in range(300)]
            if turn % 3 == 2:
                trace += [key_of(number) for number in range(fresh, fresh + 200)]
                fresh += 200
        store = make_store(100)
        lru: OrderedDict[bytes, bytes] = OrderedDict()
        found = found_by_lru = 0
        for key in trace:
            if store.get(key) is None:
                store.put(key, b"")
            else:
                found += 1
            if key in lru:
                lru.move_to_end(key)
                found_by_lru += 1
            else:
                lru[key] = b""
                if len(lru) > 100:
                    lru.popitem(last=False)
        self.assertGreater(found, 1.02 * found_by_lru)
