"""
What must hold whatever octets come, from clients or from upstreams.
"""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fuzz.path import fuzz_query, fuzz_reply
from fuzz.seeds import CORPUS, queries, replies


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
    def test_from_clients(self, octets: bytes) -> None:
        """
        One answer or silence, no exception, nothing that hurts an upstream, and the next question is answered.
        """
        fuzz_query(octets)

    @given(st.one_of(mutated(replies()), st.binary(max_size=200)))
    def test_from_upstreams(self, octets: bytes) -> None:
        """
        The client gets one answer, no longer than it may be, and the next question is answered.
        """
        fuzz_reply(octets)

    def test_the_corpus(self) -> None:
        """
        What fuzzing found worth keeping still does no harm.
        """
        for name, target in (("queries", fuzz_query), ("replies", fuzz_reply)):
            files: list[Path] = sorted((CORPUS / name).iterdir())
            self.assertGreater(len(files), 5)
            for file in files:
                target(file.read_bytes())
