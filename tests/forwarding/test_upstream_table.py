"""
Places.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.forwarding.upstream_table import UpstreamTable
from dotproxy.testing.fakes import ScriptedUpstream


class RosterTests(SynchronousTestCase):
    """
    Who comes, who goes, who stays.
    """

    def test_upstreams_keep_their_slots_across_reloads(self) -> None:
        """
        An upstream that stays keeps its slot; a new one gets another, and a freed one only after two minutes.
        """
        a, b, c, d, e = (ScriptedUpstream(label) for label in "abcde")
        upstream_table = UpstreamTable([a, b])
        upstream_table.replace([b, c], 0.0)
        self.assertEqual(
            ((1, 2), [b, c], ["a", "b", "c"]),
            (upstream_table.active, upstream_table.active_upstreams, upstream_table.labels),
        )
        upstream_table.replace([b, c, d], 100.0)
        self.assertEqual((1, 2, 3), upstream_table.active)
        upstream_table.replace([b, e], 130.0)
        self.assertEqual(((1, 0), ["e", "b", "c", "d"]), (upstream_table.active, upstream_table.labels))

    def test_repr_has_the_upstream_of_each_slot(self) -> None:
        """
        Its label and tier; "removed" if it is not sent queries any more.
        """
        a, b, c = (ScriptedUpstream(label, tier=tier) for tier, label in enumerate("abc"))
        table = UpstreamTable([a, b])
        self.assertEqual("<UpstreamTable 0 a: good, 1 b: slow>", repr(table))
        table.replace([b, c], 0.0)
        self.assertEqual("<UpstreamTable 0 a: removed, 1 b: slow, 2 c: down>", repr(table))

    def test_slot_of_a_removed_upstream_is_reserved_for_two_minutes(self) -> None:
        """
        Counted from the removal of its own upstream: replies may still arrive for it.
        """
        for since, now, is_kept in ((1000.0, 1120.0, True), (1000.0, 1120.1, False)):
            a, b, c = (ScriptedUpstream(label) for label in "abc")
            table = UpstreamTable([a, b])
            table.replace([b], since)
            table.replace([b], now - 1)
            table.replace([b, c], now)
            self.assertEqual((1, 2) if is_kept else (1, 0), table.active)
            self.assertEqual(["a", "b", "c"] if is_kept else ["c", "b"], table.labels)
            self.assertIs(c, table.slots[table.active[1]])

    def test_second_removal_restarts_the_two_minutes(self) -> None:
        """
        The two minutes begin anew.
        """
        a, b, c = (ScriptedUpstream(label) for label in "abc")
        table = UpstreamTable([a, b])
        table.replace([b], 0.0)
        table.replace([a, b], 100.0)
        table.replace([b], 200.0)
        table.replace([b, c], 300.0)
        self.assertEqual((1, 2), table.active)

    def test_upstream_that_returns_gets_its_slot_back(self) -> None:
        """
        Its former slot is used again.
        """
        a, b = ScriptedUpstream("a"), ScriptedUpstream("b")
        upstream_table = UpstreamTable([a, b])
        upstream_table.replace([b], 0.0)
        upstream_table.replace([a, b], 1000.0)
        self.assertEqual((0, 1), upstream_table.active)

    def test_only_active_upstreams_count_as_up(self) -> None:
        """
        Removed upstreams do not count.
        """
        a, b = ScriptedUpstream("a"), ScriptedUpstream("b", tier=2)
        upstream_table = UpstreamTable([a, b])
        self.assertTrue(upstream_table.is_anyone_up)
        upstream_table.replace([b], 0.0)
        self.assertFalse(upstream_table.is_anyone_up)
        b.tier = 1
        self.assertTrue(upstream_table.is_anyone_up)
