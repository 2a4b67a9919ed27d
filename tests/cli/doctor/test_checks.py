"""
How findings are shown.
"""

import json

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.doctor.checks import as_json, as_text, exit_code, ok, problem, warning


class ChecksTests(SynchronousTestCase):
    """
    Findings.
    """

    def test_exit_code_is_1_for_a_problem_only(self) -> None:
        """
        A problem is 1; warnings are not.
        """
        self.assertEqual(0, exit_code([]))
        self.assertEqual(0, exit_code([ok("a", "x"), warning("b", "y")]))
        self.assertEqual(1, exit_code([ok("a", "x"), problem("b", "y", "z")]))

    def test_text_has_a_line_each_with_advice(self) -> None:
        """
        A line each, and what to do below it.
        """
        text = as_text([ok("a", "fine"), problem("b", "wrong", "mend it")])
        self.assertEqual("ok       a: fine\nproblem  b: wrong\n         → mend it", text)

    def test_json_has_the_checks_and_a_total(self) -> None:
        """
        The same, with whether all is well.
        """
        told = json.loads(as_json([ok("a", "fine"), problem("b", "wrong", "mend it")]))
        self.assertFalse(told["healthy"])
        self.assertEqual({"name": "b", "level": "problem", "found": "wrong", "advice": "mend it"}, told["checks"][1])
        self.assertTrue(json.loads(as_json([warning("a", "unknown")]))["healthy"])
