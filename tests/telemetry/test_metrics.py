"""
Metrics: names, numbers, and that they add up.
"""

import OpenSSL
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import ClientEnd, ShedReason
from dotproxy.telemetry.counters import (
    BOUNDS,
    TRANSPORTS,
    TYPE_GROUPS,
    UDP,
    Counters,
    Histogram,
    PlaintextCounters,
    UpstreamCounters,
    answer_index,
)
from dotproxy.telemetry.metrics import METRICS, Metrics, build_info, metrics_table
from dotproxy.telemetry.report import ProcessUsage, Report, UpstreamReport
from dotproxy.telemetry.status import State, UpstreamStatus
from dotproxy.telemetry.versions import openssl_version


class CounterTests(SynchronousTestCase):
    """
    Plain numbers.
    """

    def test_each_transport_type_and_rcode_has_its_own_counter(self) -> None:
        """
        Every transport, group of types and rcode has a place of its own.
        """
        places = {
            answer_index(kind, qtype, rcode) for kind in range(3) for qtype in (1, 28, 43, 999) for rcode in range(16)
        }
        self.assertEqual(3 * 4 * 16, len(places))
        self.assertLess(max(places), len(Counters().answers))
        self.assertEqual(len(TRANSPORTS) * len(TYPE_GROUPS) * 16, len(Counters().answers))
        self.assertEqual(answer_index(UDP, 48, 0), answer_index(UDP, 43, 0))

    def test_bound_belongs_to_its_bucket_and_the_last_is_infinite(self) -> None:
        """
        A bound belongs to its bucket; what is over all bounds has one as well.
        """
        histogram = Histogram((0.1, 1.0))
        for seconds in (0.0, 0.1, 0.11, 1.0, 7.0):
            histogram.add(seconds)
        histogram.add(0.5, 10)
        self.assertEqual([2, 12, 1], histogram.counts)
        self.assertAlmostEqual(8.21 + 5, histogram.total)


class MetricsTests(SynchronousTestCase):
    """
    The text.
    """

    def setUp(self) -> None:
        """
        Some numbers.
        """
        counters = Counters()
        counters.answers[answer_index(UDP, 1, 3)] = 5
        counters.packet_cache_hits, counters.stale_responses = 7, 2
        counters.local_seconds.add(0.0002, 3)
        counters.shed[ShedReason.TOO_OLD] = 12
        counters.connections_ended[ClientEnd.EVICTED] = 13
        upstream = UpstreamCounters()
        upstream.answers[2] = 4
        upstream.connections_closed["peer", "peer_closed"] = 2
        upstream.connect_failures["tls"] = 1
        upstream.resumed_handshakes.add(0.02)
        upstream.plaintext = 1
        plaintext = PlaintextCounters()
        plaintext.bootstrap = 2
        report = Report(
            counters=counters,
            outstanding=11,
            entries=1,
            octets=2,
            evicted=3,
            upstreams=[UpstreamReport('u"1', upstream, UpstreamStatus(State.SLOW, not_after=1.8e9), 9)],
            tcp_clients=4,
            udp_drops=6,
            processes=[ProcessUsage("1", 1.5, 4096)],
            restarts=8,
            plaintext=plaintext,
        )
        self.lines = Metrics({"version": "1"}).text(report).decode().splitlines()

    def test_values_are_at_their_metrics(self) -> None:
        """
        Each is where it belongs.
        """
        for line in (
            'dotproxy_answers_total{rcode="NXDOMAIN",transport="udp",type="A"} 5.0',
            'dotproxy_cache_lookups_total{result="memo"} 7.0',
            'dotproxy_cache_lookups_total{result="stale"} 2.0',
            'dotproxy_shed_queries_total{cause="too_old"} 12.0',
            'dotproxy_tcp_connections_ended_total{end="evicted"} 13.0',
            'dotproxy_tcp_connections_ended_total{end="unread"} 0.0',
            "dotproxy_outstanding_queries 11.0",
            "dotproxy_cache_entries 1.0",
            "dotproxy_cache_bytes 2.0",
            "dotproxy_cache_evictions_total 3.0",
            'dotproxy_upstream_up{upstream="u\\"1"} 0.5',
            'dotproxy_upstream_verified{upstream="u\\"1"} 1.0',
            'dotproxy_upstream_failed_attempts{upstream="u\\"1"} 0.0',
            'dotproxy_upstream_certificate_expiry_timestamp_seconds{upstream="u\\"1"} 1.8e+09',
            'dotproxy_upstream_outstanding_queries{upstream="u\\"1"} 9.0',
            'dotproxy_upstream_answers_total{rcode="SERVFAIL",upstream="u\\"1"} 4.0',
            'dotproxy_upstream_connections_closed_total{by="peer",reason="peer_closed",upstream="u\\"1"} 2.0',
            'dotproxy_upstream_connect_failures_total{phase="tls",upstream="u\\"1"} 1.0',
            'dotproxy_upstream_handshake_seconds_count{resumed="yes",upstream="u\\"1"} 1.0',
            'dotproxy_answer_seconds_bucket{le="0.0001",where="here"} 0.0',
            'dotproxy_answer_seconds_bucket{le="0.0005",where="here"} 3.0',
            'dotproxy_answer_seconds_bucket{le="+Inf",where="here"} 3.0',
            'dotproxy_plaintext_queries_total{purpose="upstream"} 1.0',
            'dotproxy_plaintext_queries_total{purpose="bootstrap"} 2.0',
            "dotproxy_udp_drops_total 6.0",
            "dotproxy_workers 1.0",
            "dotproxy_worker_restarts_total 8.0",
            'dotproxy_worker_cpu_seconds_total{worker="1"} 1.5',
            'dotproxy_worker_resident_bytes{worker="1"} 4096.0',
            "dotproxy_ready 1.0",
        ):
            self.assertIn(line, self.lines)

    def test_untried_upstream_is_not_up_and_has_no_certificate(self) -> None:
        """
        One that was not tried yet is not up; it has no failed attempts, and no certificate.
        """
        statuses = {"new": UpstreamStatus(State.UNVERIFIED), "bad": UpstreamStatus(State.DOWN, 25, 9.0, "tls: no")}
        upstreams = [UpstreamReport(label, UpstreamCounters(), one, 0) for label, one in statuses.items()]
        lines = Metrics({}).text(Report(upstreams=upstreams)).decode().splitlines()
        for name, values in (("up", (0, 0)), ("verified", (0, 0)), ("failed_attempts", (0, 25))):
            for label, value in zip(statuses, values, strict=True):
                self.assertIn(f'dotproxy_upstream_{name}{{upstream="{label}"}} {value}.0', lines)
        self.assertEqual([], [line for line in lines if line.startswith("dotproxy_upstream_certificate")])

    def test_every_described_metric_is_rendered(self) -> None:
        """
        And no other; each has its HELP and TYPE.
        """
        told = {line.split()[2] for line in self.lines if line.startswith("# TYPE dotproxy_")}
        described = {f"dotproxy_{name}{'_total' if one.type == 'counter' else ''}" for name, one in METRICS.items()}
        self.assertEqual(described, told)
        self.assertEqual(len(METRICS) + 2, len(metrics_table().splitlines()))

    def test_openssl_version_is_that_of_the_tls_library(self) -> None:
        """
        The version of OpenSSL is that of the library that makes upstream connections, not of its binding.
        """
        info = build_info("1.2.3")
        self.assertEqual(set(METRICS["build_info"].labels), set(info))
        self.assertEqual(("1.2.3", OpenSSL.__version__), (info["version"], info["pyopenssl"]))
        self.assertEqual(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[1], info["openssl"])
        (line,) = [line for line in Metrics(info).text(Report()).decode().splitlines() if "build_info{" in line]
        self.assertIn(f'openssl="{info["openssl"]}",pyopenssl="{OpenSSL.__version__}"', line)
        self.assertEqual("3.5.4", openssl_version("OpenSSL 3.5.4 30 Sep 2025"))
        self.assertEqual("LibreSSL 4.2.0", openssl_version("LibreSSL 4.2.0"))

    def test_names_and_help_follow_the_conventions(self) -> None:
        """
        Base units in names, help texts that are sentences, bounds that grow.
        """
        self.assertEqual(sorted(BOUNDS), list(BOUNDS))
        for name, kind, labels, text in METRICS.values():
            self.assertRegex(name, r"^[a-z_]+$")
            is_span = name.endswith("_seconds") and not name.endswith("_timestamp_seconds")
            self.assertEqual(kind == "histogram", is_span and kind != "counter", name)
            self.assertRegex(text, r"^[A-Z].*[.0-9]$", name)
            self.assertEqual([], [label for label in labels if label in ("name", "client", "query")])
