"""
The environment: what is a setting, what Kubernetes puts there, what is a mistake.
"""

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.config.kubernetes_variables import is_service_link
from dotproxy.config.load import load
from dotproxy.config.schema import SETTINGS
from dotproxy.errors import ConfigError

#: What a Service may be called whose name begins with dotproxy (RFC 1123 label, as Kubernetes writes it).
_NAMES = st.text(string.ascii_uppercase + string.digits + "_", max_size=20).map(
    lambda rest: f"DOTPROXY_{rest}".rstrip("_")
)
_PORTS = st.integers(1, 65535)
_HOSTS = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
_PROTOCOLS = st.sampled_from(["tcp", "udp", "sctp"])
_PORT_NAMES = st.text(string.ascii_uppercase + string.digits + "_", min_size=1, max_size=15)


def service_links(name: str, host: str, ports: list[tuple[str, int, str]]) -> dict[str, str]:
    """
    What the kubelet puts into the environment for a Service: ``ports`` are (name, number, protocol), ``name`` may be "".
    """
    joined = f"[{host}]" if ":" in host else host
    _, first, protocol = ports[0]
    environ = {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": str(first),
        f"{name}_PORT": f"{protocol}://{joined}:{first}",
    }
    for port_name, number, protocol in ports:
        if port_name:
            environ[f"{name}_SERVICE_PORT_{port_name}"] = str(number)
        prefix = f"{name}_PORT_{number}_{protocol.upper()}"
        environ |= {
            prefix: f"{protocol}://{joined}:{number}",
            f"{prefix}_PROTO": protocol,
            f"{prefix}_PORT": str(number),
            f"{prefix}_ADDR": host,
        }
    return environ


class ServiceLinkTests(SynchronousTestCase):
    """
    Variables that Kubernetes sets for its Services.
    """

    @given(_NAMES, _HOSTS, st.lists(st.tuples(st.just("") | _PORT_NAMES, _PORTS, _PROTOCOLS), min_size=1, max_size=3))
    def test_variables_of_any_service_are_ignored(
        self, name: str, host: str, ports: list[tuple[str, int, str]]
    ) -> None:
        """
        Whatever a Service and its ports are called, its variables are neither settings nor mistakes.
        """
        loaded = load({}, service_links(name, host, ports))
        self.assertEqual(({"default"}, ()), (set(loaded.sources.values()), loaded.warnings))

    def test_service_named_like_a_setting_is_ignored(self) -> None:
        """
        A Service named after any setting changes nothing, and the setting itself is still read beside it.
        """
        for setting in SETTINGS:
            environ = service_links(setting.variable, "10.0.0.1", [("DNS_TCP", 53, "tcp"), ("", 53, "udp")])
            loaded = load({}, environ)
            self.assertEqual(({"default"}, ()), (set(loaded.sources.values()), loaded.warnings), setting.key)
        environ |= service_links("DOTPROXY_UPSTREAM", "10.0.0.1", [("", 853, "tcp")])
        loaded = load({}, {**environ, "DOTPROXY_UPSTREAM": "quad9"})
        self.assertEqual(["quad9"], [str(one) for one in loaded.config.upstream])

    def test_services_named_dotproxy_are_ignored(self) -> None:
        """
        Services called dotproxy, dotproxy-metrics and dotproxy-tcp, as they were met.
        """
        environ = {
            "DOTPROXY_SERVICE_HOST": "10.0.0.1",
            "DOTPROXY_SERVICE_PORT_DNS_TCP": "53",
            "DOTPROXY_PORT": "udp://10.0.0.1:53",
            "DOTPROXY_PORT_53_UDP_ADDR": "10.0.0.1",
            "DOTPROXY_METRICS_SERVICE_HOST": "10.0.0.2",
            "DOTPROXY_METRICS_SERVICE_PORT": "9953",
            "DOTPROXY_TCP_PORT": "tcp://[fd00::3]:53",
            "DOTPROXY_TCP_PORT_53_TCP": "tcp://[fd00::3]:53",
            "DOTPROXY_TCP_PORT_53_TCP_PROTO": "tcp",
        }
        loaded = load({}, environ)
        self.assertEqual(({"default"}, ()), (set(loaded.sources.values()), loaded.warnings))

    def test_documented_port_variables_are_settings_with_a_number(self) -> None:
        """
        DOTPROXY_UPSTREAM_PORT and DOTPROXY_LISTEN_PORT are settings if they hold a number, and Kubernetes' if a URL.
        """
        links = {"DOTPROXY_UPSTREAM_PORT": "tcp://10.0.0.1:853", "DOTPROXY_LISTEN_PORT": "udp://10.0.0.1:53"}
        self.assertEqual({"default"}, set(load({}, links).sources.values()))
        loaded = load({}, {**links, "DOTPROXY_UPSTREAM_HOST": "192.0.2.1"})
        self.assertEqual(["tls://192.0.2.1:853"], [str(one) for one in loaded.config.upstream])
        numbers = {"DOTPROXY_UPSTREAM_PORT": "8853", "DOTPROXY_LISTEN_PORT": "5353"}
        loaded = load({}, {**numbers, "DOTPROXY_UPSTREAM_HOST": "192.0.2.1"})
        self.assertEqual(["tls://192.0.2.1:8853"], [str(one) for one in loaded.config.upstream])
        self.assertEqual(5353, loaded.config.listen[0].port)
        error = self.assertRaises(ConfigError, load, {}, {"DOTPROXY_LISTEN_PORT": "tcp://everywhere"})
        self.assertIn("listen (DOTPROXY_LISTEN_PORT)", error.problems[0])

    def test_name_alone_makes_no_service_link(self) -> None:
        """
        The shape of the name alone does not make one, where a value of the other sort says what is meant.
        """
        for variable, value in (
            ("DOTPROXY_ADMIN_PORT", "9953"),
            ("DOTPROXY_PORT", "53"),
            ("DOTPROXY_PORT", "http://10.0.0.1:53"),
            ("DOTPROXY_PORT_X_TCP", "tcp://10.0.0.1:53"),
            ("DOTPROXY_METRICS_SERVICE_PORTS", "53"),
            ("DOTPROXYSERVICE_HOST", "10.0.0.1"),
            ("DOTPROXYX_SERVICE_HOST", "10.0.0.1"),
        ):
            self.assertFalse(is_service_link(variable, value), variable)


class UnknownVariableTests(SynchronousTestCase):
    """
    Variables that begin with DOTPROXY_ and mean nothing.
    """

    def test_unknown_variable_is_one_warning_with_the_nearest_name(self) -> None:
        """
        Each is a warning of one line, and the configuration loads as without it.
        """
        nearest = {
            "DOTPROXY_UPSTREM": "DOTPROXY_UPSTREAM",
            "DOTPROXY_LISTEN_PROT": "DOTPROXY_LISTEN_PORT",
            "DOTPROXY_CONFIGG": "DOTPROXY_CONFIG",
        }
        loaded = load({}, {**dict.fromkeys(nearest, "1"), "DOTPROXY_ZZZ": ""})
        self.assertEqual({"default"}, set(loaded.sources.values()))
        expected = [
            f"{variable} (environment): no such setting, ignored; did you mean {meant}?"
            for variable, meant in nearest.items()
        ]
        expected.append("DOTPROXY_ZZZ (environment): no such setting, ignored; `dotproxy example` lists them all")
        self.assertEqual(sorted(expected), sorted(loaded.warnings))
        self.assertLess(max(map(len, loaded.warnings)), 100)

    def test_unknown_variable_is_reported_beside_errors(self) -> None:
        """
        If the configuration cannot be used for another reason, what is ignored is told with it.
        """
        environ = {"DOTPROXY_UPSTREM_HOST": "192.0.2.1", "DOTPROXY_UPSTREAM_PORT": "853"}
        problems = self.assertRaises(ConfigError, load, {}, environ).problems
        self.assertEqual(
            [
                "upstream (DOTPROXY_UPSTREAM_PORT): is of no use without DOTPROXY_UPSTREAM_HOST",
                "DOTPROXY_UPSTREM_HOST (environment): no such setting, ignored; did you mean DOTPROXY_UPSTREAM_HOST?",
            ],
            problems,
        )
