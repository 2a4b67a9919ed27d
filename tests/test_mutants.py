"""
The mutation run: which mutations it makes of a line, and which tests it runs on them.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from mutants.__main__ import Equivalents, draw
from mutants.operators import is_change, mutations

_HEAD = "def limit(size, least=0):\n    "


def changed(line: str) -> set[str]:
    """
    Return what becomes of one line of a function.
    """
    source = _HEAD + line + "\n"
    found = [one for one in mutations("dotproxy/wire/one.py", source) if is_change(source, one)]
    return {one.after for one in found if one.lines == (2, 2)}


class MutationTests(SynchronousTestCase):
    """
    The changes of one line.
    """

    def test_comparison_has_its_boundary_and_its_negation(self) -> None:
        """
        A boundary moves by one, and the condition is reversed.
        """
        self.assertEqual(
            {"while size <= least: least = size", "while size >= least: least = size", "while size < least: pass"},
            changed("while size < least: least = size"),
        )

    def test_condition_without_comparison_is_negated(self) -> None:
        """
        Each `and` becomes an `or`; a `not` goes away.
        """
        self.assertEqual(
            {"if size or not least: limit()", "if size and least: limit()", "if not (size and not least): limit()"}
            | {"if size and not least: pass"},
            changed("if size and not least: limit()"),
        )

    def test_numbers_operators_slices_and_returns_are_changed(self) -> None:
        """
        A number is one more or less; an operator becomes its opposite; a slice loses a bound; a value is not returned.
        """
        self.assertEqual(
            {
                "return size[:]",
                "return size[:3 + least]",
                "return size[:1 + least]",
                "return size[:2 - least]",
                "return None",
            },
            changed("return size[:2 + least]"),
        )

    def test_arguments_are_swapped(self) -> None:
        """
        Neighbouring arguments change places, unless the order means nothing.
        """
        self.assertIn("return limit(least, size)", changed("return limit(size, least)"))
        self.assertEqual({"return None", "return min(size, least)"}, changed("return max(size, least)"))

    def test_text_and_types_are_not_changed(self) -> None:
        """
        Nothing is changed in a docstring, an annotation, an assertion, a text, or a protocol.
        """
        for line in (
            '"""Return 1."""',
            "size: tuple[int, 1] = least",
            "assert size < 1",
            "other = zip(strict=True)",
            "print = f'{size + 1}'",
        ):
            self.assertEqual(set(), changed(line), line)
        protocol = "class One(Protocol):\n    def limit(self, size=1): return 2\n"
        self.assertEqual([], mutations("dotproxy/wire/one.py", protocol))

    def test_positions_are_right_after_non_ascii_characters(self) -> None:
        """
        ast counts octets, a text has characters.
        """
        self.assertIn("return size + 'ü–' + 2", changed("return size + 'ü–' + 1"))

    def test_equivalent_source_is_no_change(self) -> None:
        """
        Nor is what does not parse.
        """
        (mutation, *_) = mutations("dotproxy/wire/one.py", "limit = 2\n")
        self.assertTrue(is_change("limit = 2\n", mutation))
        self.assertFalse(is_change("limit = 2\n", replace(mutation, replacement="(2)")))
        self.assertFalse(is_change("limit = 2\n", replace(mutation, replacement="(2")))


class SampleTests(SynchronousTestCase):
    """
    The sample.
    """

    def test_same_seed_draws_the_same_sample(self) -> None:
        """
        The same seed draws the same mutations, another one others; 0 is all of them.
        """
        source = "\n".join(f"def f{number}(x):\n    return x < {number + 2}" for number in range(50))
        found = mutations("one.py", source)
        sources = {"one.py": source}
        self.assertEqual(draw(found, sources, 1, 20), draw(found, sources, 1, 20))
        self.assertNotEqual(draw(found, sources, 1, 20), draw(found, sources, 2, 20))
        self.assertEqual(20, len(draw(found, sources, 1, 20)))
        self.assertEqual(found, draw(found, sources, 1, 0))

    def test_equivalents_are_found_by_their_text(self) -> None:
        """
        An entry holds wherever the line stands; one for a line that has changed is reported.
        """
        with TemporaryDirectory() as folder:
            file = Path(folder, "equivalent.toml")
            file.write_text(
                '[[mutant]]\npath = "one.py"\nwhere = "f"\nbefore = "return x < 2"\nafter = ["return x <= 2", "y"]\n'
                'reason = "x is odd"\n',
                "utf-8",
            )
            equivalents = Equivalents(file)
        for source in ("def f(x):\n    return x < 2", "# moved\n\ndef f(x):\n    return x < 2"):
            found = {one.after: one for one in mutations("one.py", source)}
            self.assertEqual("x is odd", equivalents.reason(found["return x <= 2"]))
            self.assertIsNone(equivalents.reason(found["return x >= 2"]))
            self.assertEqual(["one.py: f: return x < 2  →  y"], equivalents.stale(list(found.values())))
