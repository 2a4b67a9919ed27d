"""
Variables that Kubernetes makes for Services, and settings that look like them.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.kubernetes_variables import is_service_link


class ServiceLinkTests(SynchronousTestCase):
    """
    By name, or by name and value.
    """

    def test_service_link_is_recognised_by_name(self) -> None:
        """
        These are no settings, whatever they hold.
        """
        for name in (
            *("DOTPROXY_SERVICE_HOST", "DOTPROXY_SERVICE_PORT", "DOTPROXY_SERVICE_PORT_DNS_TCP"),
            *("DOTPROXY_PORT_53_UDP", "DOTPROXY_PORT_53_TCP_ADDR", "DOTPROXY_METRICS_SERVICE_HOST"),
            *("DOTPROXY_METRICS_PORT_9153_TCP_PROTO", "DOTPROXY_A_B_SERVICE_PORT_X", "DOTPROXY_PORT_1_SCTP_PORT"),
        ):
            self.assertTrue(is_service_link(name, "anything"), name)

    def test_service_link_is_recognised_by_a_url(self) -> None:
        """
        A name that ends in PORT is one with a URL, and a setting with a number.
        """
        for name in ("DOTPROXY_PORT", "DOTPROXY_LISTEN_PORT"):
            for value in ("tcp://10.0.0.1:53", "udp://10.0.0.1:53", "tcp://[fd00::1]:53"):
                self.assertTrue(is_service_link(name, value), value)
            for value in ("853", "", "tls://10.0.0.1:53", "tcp://10.0.0.1", "tcp://10.0.0.1:53/x", "tcp://host:53"):
                self.assertFalse(is_service_link(name, value), value)

    def test_other_variables_are_settings_or_errors(self) -> None:
        """
        Others are settings, or mistakes.
        """
        for name in (
            "DOTPROXY_LISTEN",
            "DOTPROXY_SERVICE",
            "OTHER_SERVICE_HOST",
            "DOTPROXY_PORT_X_TCP",
            "DOTPROXYSERVICE_HOST",
        ):
            self.assertFalse(is_service_link(name, "tcp://10.0.0.1:53"), name)
