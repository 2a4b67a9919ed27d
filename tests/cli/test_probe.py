"""
What is said of an upstream that was probed.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.probe import Prober, ProbeReport, report_text
from dotproxy.cli.tls_inspect import TlsDetails, _names
from dotproxy.config.load import load
from dotproxy.testing.certificates import Authority
from dotproxy.wire.edns import ExtendedError, ede_option, opt_record
from dotproxy.wire.message import HEADER


def reply(rcode: int, options: bytes = b"") -> bytes:
    """
    An answer that has none.
    """
    return HEADER.pack(1, 0x8180 | rcode, 1, 0, 0, 1) + b"\0\0\6\0\1" + opt_record(1232, 0, 0, options)


class VerdictTests(SynchronousTestCase):
    """
    Whether it can be used.
    """

    def judged(self, *replies: bytes) -> ProbeReport:
        """
        A verified upstream, by its answers.
        """
        prober = Prober(load({}, {}).config, None)
        report = ProbeReport("dot.test", "192.0.2.1:853", TlsDetails(), verified="dot.test")
        for one in replies:
            prober._judge(one, report)
        return report

    def test_noerror_and_nxdomain_are_success(self) -> None:
        """
        That there is a name, or none.
        """
        for rcode, name in ((0, "NOERROR"), (3, "NXDOMAIN")):
            report = self.judged(reply(rcode))
            self.assertEqual((name, "", True), (report.rcode, report.problem, report.is_good))
            self.assertIn("  verdict       verified as dot.test\n", report_text(report))

    def test_error_response_is_a_failure_with_its_reason(self) -> None:
        """
        An upstream that is verified and answers with a failure cannot be used; its reason is told.
        """
        for rcode, name in ((1, "FORMERR"), (2, "SERVFAIL"), (4, "NOTIMP"), (5, "REFUSED"), (9, "NOTAUTH")):
            report = self.judged(reply(rcode))
            self.assertEqual((name, False), (report.rcode, report.is_good))
            text = report_text(report)
            self.assertIn("  verdict       verified as dot.test, but not usable\n", text)
            self.assertIn(f"  problem       responds with {name} to . SOA\n", text)
        report = self.judged(reply(2, ede_option(ExtendedError(22, "no route"))))
        self.assertEqual(
            "responds with SERVFAIL to . SOA; EDE: 22 (No Reachable Authority): (no route)", report.problem
        )

    def test_later_response_decides(self) -> None:
        """
        A resolver that has nothing in its cache may fail once.
        """
        self.assertTrue(self.judged(reply(2), reply(0)).is_good)
        self.assertFalse(self.judged(reply(0), reply(2)).is_good)

    def test_output_has_no_control_characters(self) -> None:
        """
        Neither from a certificate nor from an Extended DNS Error nor from what went wrong.
        """
        ugly = "x\n\x1b[2J\x9b\u202e"
        for report in (
            self.judged(reply(2, ede_option(ExtendedError(22, ugly)))),
            ProbeReport(
                "u", "a", TlsDetails(names=(ugly,), issuer=ugly, alpn=ugly, error=ugly), problem=ugly, notes=[ugly]
            ),
        ):
            report.upstream = "u"
            text = report_text(report)
            self.assertIn("x\\n\\x1b[2J", text)
            self.assertTrue(text.replace("\n", "").isprintable(), text)

    def test_twenty_names_of_a_certificate_are_shown(self) -> None:
        """
        Twenty are shown, and how many more there are.
        """
        certificate = Authority().issue([f"n{number}.test" for number in range(500)]).certificate
        names = _names(certificate)
        self.assertEqual((21, "480 more"), (len(names), names[-1]))
