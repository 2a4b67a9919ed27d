"""
Label values: fixed, short, few, and documented.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import PHASES, ConnectionEnd
from dotproxy.telemetry.counters import Counters, UpstreamCounters
from dotproxy.telemetry.labels import FIXED, OPEN, labels_table
from dotproxy.telemetry.metrics import METRICS, Metrics
from dotproxy.telemetry.report import ProcessUsage, Report, UpstreamReport
from dotproxy.telemetry.status import State, UpstreamStatus

TOP = Path(__file__).parent.parent.parent


def calls() -> Iterator[tuple[str, ast.Call]]:
    """
    Each call in the code, with the last part of what is called.
    """
    for path in sorted((TOP / "dotproxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func
                yield called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", ""), node


def full_report() -> Report:
    """
    A report in which everything was counted that can be.
    """
    counters, upstream = Counters(), UpstreamCounters()
    counters.answers = [1] * len(counters.answers)
    upstream.answers = [1] * 16
    for reason in ConnectionEnd:
        upstream.count_closed(reason, "")
        upstream.count_closed("", reason)
    upstream.connect_failures.update(PHASES)
    return Report(
        counters=counters,
        upstreams=[UpstreamReport("u", upstream, UpstreamStatus(State.UP), 0)],
        processes=[ProcessUsage("1", 1.0, 1)],
    )


class LabelTests(SynchronousTestCase):
    """
    What stands in the metrics, against what is documented.
    """

    def test_every_label_is_known(self) -> None:
        """
        A metric's label has fixed values, or is one of those that the configuration fills.
        """
        used = {label for metric in METRICS.values() for label in metric.labels}
        self.assertEqual(used, set(FIXED) | set(OPEN))
        self.assertEqual(set(), set(FIXED) & set(OPEN))

    def test_label_values_are_single_words(self) -> None:
        """
        Each is one word without spaces; names of the DNS and of yes and no are as everybody spells them.
        """
        for label, values in FIXED.items():
            for value, text in values.items():
                form = r"^[A-Z0-9]+$|^other$|^DNSSEC$" if label in ("type", "rcode") else r"^[a-z]+(_[a-z]+)*$"
                self.assertRegex(value, form, label)
                self.assertLessEqual(len(value), 20)
                self.assertNotRegex(text, r"^$|\|", f"{label} {value}")

    def test_a_full_report_has_documented_values_only(self) -> None:
        """
        Whatever was counted, a fixed label has one of its documented values.
        """
        seen: dict[str, set[str]] = {label: set() for label in FIXED}
        for family in text_string_to_metric_families(Metrics({"version": "1"}).text(full_report()).decode()):
            if family.name.startswith("dotproxy_"):
                for sample in family.samples:
                    for label in seen.keys() & sample.labels.keys():
                        seen[label].add(sample.labels[label])
        for label, values in seen.items():
            self.assertEqual(set(FIXED[label]), values | ({"read"} if label == "phase" else set()), label)

    def test_unknown_reason_is_other(self) -> None:
        """
        Nothing that an upstream or a library says can make a label value of its own.
        """
        counters = UpstreamCounters()
        counters.count_closed("", "the upstream closed the connection")
        counters.count_closed("because", "")
        self.assertEqual({("peer", "other"): 1, ("us", "other"): 1}, dict(counters.connections_closed))

    def test_reasons_in_the_code_are_codes(self) -> None:
        """
        What a connection is closed or drained for, and the phase of every error, is one of the documented values.
        """
        errors = ("UpstreamError", "Unreachable", "Timeout", "ConnectionGone", "BadReply", "Untrusted", "Incompatible")
        reasons, named, phases = set(), set(), set()
        for name, call in calls():
            first = call.args[0] if call.args else None
            if isinstance(first, ast.Attribute) and ast.unparse(first.value) == "ConnectionEnd":
                named.add(ConnectionEnd[first.attr])
            elif isinstance(first, ast.Constant) and isinstance(first.value, str):
                if name == "close":
                    reasons.add(first.value)
                elif name in errors:
                    phases.add(first.value)
        self.assertLessEqual({ConnectionEnd.REPLACED, ConnectionEnd.AGE, ConnectionEnd.IDLE}, named)
        self.assertEqual(set(), reasons - set(ConnectionEnd))
        self.assertEqual(set(PHASES), phases)

    def test_connections_are_counted_in_one_place(self) -> None:
        """
        Only ``count_closed``, which knows the reasons, adds to ``connections_closed``.
        """
        for path in (TOP / "dotproxy").rglob("*.py"):
            if path.name != "counters.py":
                self.assertNotRegex(path.read_text("utf-8"), r"\.connections_closed\[", str(path))

    def test_metrics_page_lists_the_label_values(self) -> None:
        """
        docs/metrics.md has the table that the code makes, and a name of each enumerated value.
        """
        page = (TOP / "docs" / "metrics.md").read_text("utf-8")
        self.assertIn(labels_table(), page)
        for value in ConnectionEnd:
            self.assertTrue(re.search(rf"`{value}`", page), value)
