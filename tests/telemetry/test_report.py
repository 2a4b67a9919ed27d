"""
Reports: added up, and between processes.
"""

import json
from dataclasses import asdict

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ClientEnd, ShedReason
from dotproxy.telemetry.counters import Counters, PlaintextCounters, UpstreamCounters
from dotproxy.telemetry.report import (
    NO_WORKER,
    ProcessUsage,
    Report,
    UpstreamReport,
    after_exit,
    as_data,
    from_data,
    plaintext_by_purpose,
    sum_of,
    verified_summary,
)
from dotproxy.telemetry.status import State, UpstreamStatus


def report(scale: int, label: str = "u") -> Report:
    """
    One in which every number is another.
    """
    counters, upstream = Counters(), UpstreamCounters()
    counters.answers[5] = 1 * scale
    counters.packet_cache_hits, counters.cache_misses = 2 * scale, 3 * scale
    counters.local_seconds.add(0.0002, 4 * scale)
    counters.shed[ShedReason.TOO_OLD] = 22 * scale
    counters.connections_ended[ClientEnd.UNREAD] = 23 * scale
    upstream.answers[0] = 5 * scale
    upstream.answer_seconds.add(0.02, 6 * scale)
    upstream.connections_closed["peer", "peer_closed"] = 7 * scale
    upstream.connect_failures["tls"] = 8 * scale
    upstream.plaintext = 20 * scale
    plaintext = PlaintextCounters()
    plaintext.bootstrap = 21 * scale
    status = UpstreamStatus(State.SLOW if scale % 2 else State.DOWN, scale, 20.0 * scale, "tls: no", 21.0 * scale)
    return Report(
        counters=counters,
        outstanding=9 * scale,
        entries=10 * scale,
        octets=11 * scale,
        evicted=12 * scale,
        tcp_clients=13 * scale,
        udp_errors=14 * scale,
        udp_drops=15 * scale,
        upstreams=[UpstreamReport(label, upstream, status, 16 * scale, 0.01 * scale, 0.02)],
        processes=[ProcessUsage(f"w{scale}", 17.0 * scale, 18 * scale)],
        restarts=19 * scale,
        plaintext=plaintext,
    )


class ReportTests(SynchronousTestCase):
    """
    Reports.
    """

    def test_report_round_trips_through_json(self) -> None:
        """
        What is written as JSON is read as it was.
        """
        data = as_data(report(1))
        self.assertEqual(data, as_data(from_data(json.loads(json.dumps(data)))))

    def test_numbers_are_summed_and_the_best_state_is_taken(self) -> None:
        """
        Every number is the sum; what is a state is that of the one that is best off.
        """
        expected = as_data(report(5))
        (upstream,) = expected["upstreams"]
        upstream["status"] = asdict(UpstreamStatus(State.SLOW, 1, 20.0, "tls: no", 21.0))
        upstream["p50"] = (0.01 * 1 * 5 + 0.04 * 4 * 5) / 25
        expected["processes"] = [ProcessUsage("w1", 17.0, 18), ProcessUsage("w4", 68.0, 72)]
        whole = as_data(sum_of([report(1), report(4)]))
        for part in (expected, whole):
            part["upstreams"][0]["p50"] = round(part["upstreams"][0]["p50"], 9)
            part["upstreams"][0]["p95"] = round(part["upstreams"][0]["p95"], 9)
            part["counters"]["local_seconds"][1] = round(part["counters"]["local_seconds"][1], 9)
            part["upstreams"][0]["counters"]["answer_seconds"][1] = round(
                part["upstreams"][0]["counters"]["answer_seconds"][1], 9
            )
        self.assertEqual(expected, whole)

    def test_upstreams_of_the_same_name_are_merged(self) -> None:
        """
        Those of one name are one.
        """
        whole = sum_of([report(1, "a"), report(2, "b"), report(3, "a")])
        self.assertEqual([("a", 20), ("b", 10)], [(one.label, one.counters.answers[0]) for one in whole.upstreams])

    def test_plaintext_queries_are_summed_by_purpose(self) -> None:
        """
        What left without TLS is told by purpose, summed over workers, and counts after a worker has ended.
        """
        whole = sum_of([report(1, "a"), after_exit(report(4, "b"))])
        self.assertEqual({"upstream": 100, "bootstrap": 105}, plaintext_by_purpose(whole))
        self.assertEqual({"upstream": 0, "bootstrap": 0}, plaintext_by_purpose(Report()))

    def test_most_attempts_and_longest_outage_are_reported(self) -> None:
        """
        The most attempts and the longest outage count, since workers tell each other; one that has ended knows nothing.
        """
        parts = [
            UpstreamReport("u", UpstreamCounters(), status, 0)
            for status in (
                UpstreamStatus(State.DOWN, 2, 5.0, "tls: no", 30.0),
                UpstreamStatus(State.DOWN, 3, 7.0, "", 20.0),
            )
        ]
        reports = [Report(upstreams=[part]) for part in parts]
        (whole,) = sum_of([*reports, after_exit(reports[0])]).upstreams
        self.assertEqual(UpstreamStatus(State.DOWN, 3, 7.0, "tls: no", 20.0), whole.status)

    def test_number_of_verified_upstreams_is_in_words(self) -> None:
        """
        How many work, and of the others why not.
        """
        statuses = {
            "a": UpstreamStatus(State.UP),
            "b": UpstreamStatus(State.DOWN, 1, 0.0, "connect: refused"),
            "c": UpstreamStatus(State.UNVERIFIED),
            "d": UpstreamStatus(State.SLOW),
        }
        upstreams = [UpstreamReport(label, UpstreamCounters(), status, 0) for label, status in statuses.items()]
        self.assertEqual(
            "2 of 4 upstreams verified (b: connect: refused; c: not verified yet)", verified_summary(upstreams)
        )
        self.assertEqual("1 of 1 upstreams verified", verified_summary(upstreams[:1]))

    def test_one_ready_worker_is_enough(self) -> None:
        """
        One that can answer is enough.
        """
        bad = Report(not_ready="every upstream is down")
        self.assertEqual("", sum_of([bad, Report()]).not_ready)
        self.assertEqual("every upstream is down", sum_of([Report(not_ready=NO_WORKER), bad, bad]).not_ready)
        self.assertEqual("nobody serves yet", sum_of([]).not_ready)
