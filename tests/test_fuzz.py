"""
What must hold whatever octets come, from clients or from upstreams.
"""

import gc
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.testing.client import make_query
from dotproxy.testing.zone import Zone, address_rdata
from dotproxy.wire.rrtypes import A
from fuzz import flood
from fuzz.clients import Checks
from fuzz.corpora import CAPTURED, exchanges
from fuzz.path import fuzz_query, fuzz_reply
from fuzz.seeds import CORPUS, queries, replies
from tests import rounds


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """
    A seed with octets changed, put in or taken out.
    """

    def mutate(drawn: tuple[bytes, list[tuple[int, int, bytes]]]) -> bytes:
        octets, changes = drawn
        for at, skip, new in changes:
            place = at % (len(octets) + 1)
            octets = octets[:place] + new + octets[place + skip :]
        return octets

    change = st.tuples(st.integers(0, 2000), st.integers(0, 4), st.binary(max_size=6))
    return st.tuples(st.sampled_from(seeds), st.lists(change, max_size=4)).map(mutate)


class FuzzTests(SynchronousTestCase):
    """
    Strangers' octets.
    """

    @given(st.one_of(mutated(queries()), st.binary(max_size=200)))
    def test_fuzzed_query_gets_one_response_or_none(self, octets: bytes) -> None:
        """
        One answer or silence, no exception, nothing that hurts an upstream, and the next question is answered.
        """
        fuzz_query(octets)

    @given(st.one_of(mutated(replies()), st.binary(max_size=200)))
    def test_fuzzed_reply_gives_the_client_one_response(self, octets: bytes) -> None:
        """
        The client gets one answer, no longer than it may be, and the next question is answered.
        """
        fuzz_reply(octets)

    def test_corpus_passes(self) -> None:
        """
        What fuzzing found worth keeping still does no harm.
        """
        for name, target in (("queries", fuzz_query), ("replies", fuzz_reply)):
            files: list[Path] = sorted((CORPUS / name).iterdir())
            self.assertGreater(len(files), 5)
            for file in files:
                target(file.read_bytes())

    def test_captured_messages_pass(self) -> None:
        """
        What real clients and servers say, whole.
        """
        for source in ("nsd", "bind", "unbound", "kresd", "dnsdist"):
            self.assertTrue((CAPTURED / source).is_file(), source)
            captured = exchanges(source)
            self.assertGreater(len(captured), 60)
            for query, response in captured[::10]:
                fuzz_query(query)
                fuzz_reply(response[2:])


class FloodTests(SynchronousTestCase):
    """
    The flood, and that it can fail.
    """

    def setUp(self) -> None:
        """
        Exclude what other tests left in memory from the collections of a flood: they take most of its time otherwise.
        """
        gc.freeze()
        self.addCleanup(gc.unfreeze)

    def test_small_flood_is_clean_and_repeatable(self) -> None:
        """
        Nothing is wrong in it, and it is the same each time.
        """
        self.assertRegex(flood.run(2000, 7)[0], r"2\d\d\d packets")
        count = rounds(500, quick=150)
        again, other = flood.run(count, 7)[-1], flood.run(count, 8)[-1]
        self.assertEqual(again, flood.run(count, 7)[-1])
        self.assertNotEqual(again, other)

    def test_missing_or_second_response_is_reported(self) -> None:
        """
        A second one is noticed, and one that is missing.
        """
        world = flood.World(1)
        query = make_query("localhost.", A)
        client = world.datagrams.client_of(query)
        with self.assertRaisesRegex(AssertionError, "1 queries over UDP without an answer"):
            world.settle()
        world.forwarder.handle_batch(world.datagrams, [(query, client)])
        world.settle()
        globalLogPublisher.addObserver(world.note)
        self.addCleanup(globalLogPublisher.removeObserver, world.note)
        world.forwarder.handle_batch(world.datagrams, [(query, client)])
        with self.assertRaisesRegex(AssertionError, "AssertionError in clients.py"):
            world.settle()
        world.stop()

    def test_logged_exception_is_reported(self) -> None:
        """
        An exception that nobody sees but the log is one.
        """
        world = flood.World(1)
        world.failures.append("a traceback")
        self.assertRaisesRegex(AssertionError, "a traceback", world.settle)
        world.stop()

    def test_growing_table_or_memory_is_reported(self) -> None:
        """
        A table that is longer than its bound ends it, and so does memory that grows.
        """
        world, watch = flood.World(1), flood.Watch()
        for _ in range(30):
            world.step()
        watch.look(world)
        self.patch(flood, "CACHED", 3)
        self.assertRaisesRegex(AssertionError, "cache: ", watch.look, world)
        world.settle()
        world.stop()
        weights = iter((50 << 20, 66 << 20, 68 << 20))
        self.patch(flood, "resident", lambda: next(weights))
        watch.weigh(1)
        watch.weigh(2)
        self.assertRaisesRegex(AssertionError, "68 MiB after 3 tenths, 67 MiB are allowed", watch.weigh, 3)

    def test_malformed_response_is_reported(self) -> None:
        """
        Its ID, that it is one, its opcode, question, length and end.
        """
        query = make_query("www.fuzz.example.", A)
        answer = Zone({("www.fuzz.example.", A): [address_rdata("192.0.2.1")]})(query)
        assert answer is not None
        checks = Checks()
        checks.check(query, answer, 1232)
        for wrong in (
            b"\xff\xff" + answer[2:],
            answer[:2] + b"\x01" + answer[3:],
            answer[:2] + b"\xa1" + answer[3:],
            answer.replace(b"www", b"xxx"),
            answer + b"\0",
            answer[:7] + b"\2" + answer[8:],
        ):
            with self.subTest(answer=wrong):
                self.assertRaises((AssertionError, IndexError), checks.check, query, wrong, 1232)
        self.assertRaises(AssertionError, checks.check, query, answer, len(answer) - 1)
