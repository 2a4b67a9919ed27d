"""
Places.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.roster import Roster
from dotproxy.testing.fakes import ScriptedUpstream


class RosterTests(SynchronousTestCase):
    """
    Who comes, who goes, who stays.
    """

    def test_places(self) -> None:
        """
        Whoever stays keeps its place; whoever is new gets another, and one that was left only after two minutes.
        """
        a, b, c, d, e = (ScriptedUpstream(label) for label in "abcde")
        roster = Roster([a, b])
        roster.change([b, c], 0.0)
        self.assertEqual(((1, 2), [b, c], ["a", "b", "c"]), (roster.places, roster.asked, roster.labels))
        roster.change([b, c, d], 100.0)
        self.assertEqual((1, 2, 3), roster.places)
        roster.change([b, e], 130.0)
        self.assertEqual(((1, 0), ["e", "b", "c", "d"]), (roster.places, roster.labels))

    def test_coming_back(self) -> None:
        """
        Whoever comes back has its place again.
        """
        a, b = ScriptedUpstream("a"), ScriptedUpstream("b")
        roster = Roster([a, b])
        roster.change([b], 0.0)
        roster.change([a, b], 1000.0)
        self.assertEqual((0, 1), roster.places)

    def test_who_is_up(self) -> None:
        """
        Only those who are asked count.
        """
        a, b = ScriptedUpstream("a"), ScriptedUpstream("b", tier=2)
        roster = Roster([a, b])
        self.assertTrue(roster.is_anyone_up)
        roster.change([b], 0.0)
        self.assertFalse(roster.is_anyone_up)
        b.tier = 1
        self.assertTrue(roster.is_anyone_up)
