"""
Counters: groups of answers, histograms, why connections ended.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ConnectionEnd
from dotproxy.telemetry.counters import (
    RCODES,
    TLS,
    TRANSPORTS,
    TYPE_GROUPS,
    UDP,
    Counters,
    Histogram,
    UpstreamCounters,
    answer_index,
)
from dotproxy.wire import rrtypes


class AnswerIndexTests(SynchronousTestCase):
    """
    A place for each transport, group of types, and rcode.
    """

    def test_each_combination_has_its_own_index(self) -> None:
        """
        No two have the same, and none is outside the list.
        """
        types = (1, 28, 65, 12, 5, 15, 2, 6, 16, 33, 43, 65280)
        self.assertEqual(len(TYPE_GROUPS), len(types))
        places = [
            answer_index(kind, qtype, rcode)
            for kind in range(len(TRANSPORTS))
            for qtype in types
            for rcode in range(16)
        ]
        self.assertEqual(list(range(len(Counters().answers))), places)
        self.assertEqual(16, len(RCODES))

    def test_dnssec_and_other_types_are_groups(self) -> None:
        """
        DNSSEC's types are one group, all that is not named is another.
        """
        dnssec = {answer_index(UDP, qtype, 0) for qtype in (43, 46, 47, 48, 50, 51, 52)}
        others = {answer_index(UDP, qtype, 0) for qtype in (0, 3, 99, 255, 257, 65535)}
        self.assertEqual(({10 * 16}, {11 * 16}), (dnssec, others))
        self.assertEqual(("DNSSEC", "other"), TYPE_GROUPS[10:])
        for number, name in enumerate(TYPE_GROUPS[:10]):
            self.assertEqual(number * 16 + 3, answer_index(UDP, getattr(rrtypes, name), 3))
        self.assertEqual(3 * 12 * 16, answer_index(TLS, 1, 0))


class HistogramTests(SynchronousTestCase):
    """
    How often something took how long.
    """

    def test_bound_belongs_to_its_bucket(self) -> None:
        """
        A bound belongs to its bucket; what is above all bounds to the last.
        """
        histogram = Histogram((0.1, 1.0))
        for seconds in (0.05, 0.1, 0.11, 1.0, 1.01):
            histogram.add(seconds)
        histogram.add(0.5, 10)
        self.assertEqual([2, 12, 1], histogram.counts)
        self.assertAlmostEqual(7.27, histogram.total)

    def test_bounds_increase_to_the_longest_query_time(self) -> None:
        """
        They grow, from a tenth of a millisecond to the longest a query takes.
        """
        bounds = Histogram().bounds
        self.assertEqual(sorted(set(bounds)), list(bounds))
        self.assertEqual((0.0001, 5.0), (bounds[0], bounds[-1]))


class CloseTests(SynchronousTestCase):
    """
    Connections that ended.
    """

    def test_close_is_counted_by_side_and_reason(self) -> None:
        """
        A reason of ours, or the code of how the upstream ended it; what has no label is "other".
        """
        counters = UpstreamCounters()
        counters.count_closed("idle", ConnectionEnd.PEER_CLOSED)
        counters.count_closed("", ConnectionEnd.PEER_CLOSED)
        counters.count_closed("", "a made-up code")
        counters.count_closed("a made-up reason", "")
        self.assertEqual(
            {("us", "idle"): 1, ("peer", "peer_closed"): 1, ("peer", "other"): 1, ("us", "other"): 1},
            dict(counters.connections_closed),
        )

    def test_every_counter_is_reported(self) -> None:
        """
        Other rooms go by the names of the fields; each is there from the start.
        """
        for counters in (Counters(), UpstreamCounters()):
            for name in counters.FIELDS:
                self.assertIsNotNone(getattr(counters, name), name)
