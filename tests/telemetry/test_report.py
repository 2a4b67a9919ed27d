"""
Reports: added up, and between processes.
"""

import json

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.telemetry.counters import Counters, UpstreamCounters
from dotproxy.telemetry.report import NOBODY, Report, UpstreamReport, added, as_data, from_data


def report(scale: int, label: str = "u") -> Report:
    """
    One in which every number is another.
    """
    counters, upstream = Counters(), UpstreamCounters()
    counters.answers[5] = 1 * scale
    counters.memo, counters.missed = 2 * scale, 3 * scale
    counters.here.add(0.0002, 4 * scale)
    upstream.answers[0] = 5 * scale
    upstream.wire.add(0.02, 6 * scale)
    upstream.closed["peer", "peer_closed"] = 7 * scale
    upstream.not_connected["tls"] = 8 * scale
    return Report(
        counters=counters,
        outstanding=9 * scale,
        entries=10 * scale,
        octets=11 * scale,
        evicted=12 * scale,
        tcp_clients=13 * scale,
        udp_errors=14 * scale,
        udp_drops=15 * scale,
        upstreams=[UpstreamReport(label, upstream, 2 - scale % 2, 16 * scale, 0.01 * scale, 0.02)],
        processes=[(f"w{scale}", 17.0 * scale, 18 * scale)],
        restarts=19 * scale,
    )


class ReportTests(SynchronousTestCase):
    """
    Reports.
    """

    def test_between_processes(self) -> None:
        """
        What is written as JSON is read as it was.
        """
        data = as_data(report(1))
        self.assertEqual(data, as_data(from_data(json.loads(json.dumps(data)))))

    def test_added_up(self) -> None:
        """
        Every number is the sum; what is a state is that of the one that is best off.
        """
        expected = as_data(report(5))
        (upstream,) = expected["upstreams"]
        upstream["tier"] = 1
        upstream["p50"] = (0.01 * 1 * 5 + 0.04 * 4 * 5) / 25
        expected["processes"] = [("w1", 17.0, 18), ("w4", 68.0, 72)]
        whole = as_data(added([report(1), report(4)]))
        for part in (expected, whole):
            part["upstreams"][0]["p50"] = round(part["upstreams"][0]["p50"], 9)
            part["upstreams"][0]["p95"] = round(part["upstreams"][0]["p95"], 9)
            part["counters"]["here"][1] = round(part["counters"]["here"][1], 9)
            part["upstreams"][0]["counters"]["wire"][1] = round(part["upstreams"][0]["counters"]["wire"][1], 9)
        self.assertEqual(expected, whole)

    def test_other_upstreams(self) -> None:
        """
        Those of one name are one.
        """
        whole = added([report(1, "a"), report(2, "b"), report(3, "a")])
        self.assertEqual([("a", 20), ("b", 10)], [(one.label, one.counters.answers[0]) for one in whole.upstreams])

    def test_readiness(self) -> None:
        """
        One that can answer is enough.
        """
        bad = Report(not_ready="every upstream is down")
        self.assertEqual("", added([bad, Report()]).not_ready)
        self.assertEqual("every upstream is down", added([Report(not_ready=NOBODY), bad, bad]).not_ready)
        self.assertEqual("nobody serves yet", added([]).not_ready)
