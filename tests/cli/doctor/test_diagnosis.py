"""
What doctor says of a machine's resolver: each diagnosis, from what a machine could tell.
"""

from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.doctor.checks import Check, Level
from dotproxy.cli.doctor.diagnosis import (
    Evidence,
    Listening,
    check_arrival,
    check_configuration,
    check_nsswitch,
    check_plaintext,
    check_port_53,
    check_resolv_conf,
    check_resolved,
)
from dotproxy.cli.doctor.system import Scope, Server, SystemResolver, Writer
from dotproxy.config.load import load

LOCAL = {"127.0.0.1", "127.0.0.3", "192.0.2.10", "::1"}
LISTENING = Listening((Server("127.0.0.1"), Server("::1")), LOCAL.__contains__)
LINK_SERVER = Server("198.51.100.2")
EVERY_NAME = ("~.", "~in-addr.arpa", "~ip6.arpa")


def system(*nameservers: str, services: str = "files dns", scopes: tuple[Scope, ...] = ()) -> SystemResolver:
    """
    A machine.
    """
    return SystemResolver(tuple(map(Server, nameservers)), Writer.UNKNOWN, tuple(services.split()), scopes)


def levels(checks: list[Check]) -> list[Level]:
    """
    How bad each is.
    """
    return [check.level for check in checks]


class ResolvConfTests(SynchronousTestCase):
    """
    The servers in resolv.conf.
    """

    def test_dotproxy_as_only_nameserver_is_right(self) -> None:
        """
        Its addresses, and nobody else's, are right.
        """
        self.assertEqual([Level.OK] * 2, levels(check_resolv_conf(system("127.0.0.1", "::1"), LISTENING)))

    def test_remote_nameserver_is_a_problem(self) -> None:
        """
        A server that is not on this machine is asked in the clear, as a reserve too; the advice names the recipe.
        """
        for nameservers in (("198.51.100.2",), ("127.0.0.1", "198.51.100.2"), ("127.0.0.1", "2001:db8::1")):
            *_, last = check_resolv_conf(system(*nameservers), LISTENING)
            self.assertEqual(Level.PROBLEM, last.level)
            self.assertIn(f"{nameservers[-1]} leave in the clear", last.found)
        for writer in Writer:
            (check,) = check_resolv_conf(SystemResolver((LINK_SERVER,), writer, ("dns",)), LISTENING)
            self.assertIn(f"section {writer.value}", check.advice)

    def test_other_local_nameserver_is_a_warning(self) -> None:
        """
        A local forwarder may ask anybody: a warning, with where dotproxy listens.
        """
        (check,) = check_resolv_conf(system("127.0.0.3"), LISTENING)
        self.assertEqual(Level.WARNING, check.level)
        self.assertIn("listens on 127.0.0.1 port 53", check.found)

    def test_dotproxy_on_another_port_is_a_problem(self) -> None:
        """
        The C library asks port 53; a dotproxy on 5300 is not asked.
        """
        listening = Listening((Server("127.0.0.1", 5300),), LOCAL.__contains__)
        (check,) = check_resolv_conf(system("127.0.0.1"), listening)
        self.assertEqual(Level.WARNING, check.level)
        self.assertIn("127.0.0.1 port 5300", check.found)

    def test_wildcard_listener_matches_every_local_address(self) -> None:
        """
        A dotproxy on a wildcard address is asked at any address of this machine, of that family.
        """
        listening = Listening((Server("0.0.0.0"),), LOCAL.__contains__)
        checks = check_resolv_conf(system("192.0.2.10", "198.51.100.2", "::1"), listening)
        self.assertEqual([Level.OK, Level.PROBLEM, Level.WARNING], levels(checks))

    def test_stub_of_systemd_resolved_is_no_leak(self) -> None:
        """
        Its stub listener is no leak by itself.
        """
        self.assertEqual([Level.OK], levels(check_resolv_conf(system("127.0.0.53"), LISTENING)))


class NsswitchTests(SynchronousTestCase):
    """
    Services for hosts.
    """

    def test_nsswitch_without_dns_or_resolve_is_reported(self) -> None:
        """
        Without dns or resolve no lookup is a DNS query.
        """
        self.assertEqual(Level.OK, check_nsswitch(system("127.0.0.1")).level)
        self.assertEqual(Level.OK, check_nsswitch(system("127.0.0.1", services="resolve")).level)
        self.assertEqual(Level.WARNING, check_nsswitch(system("127.0.0.1", services="files")).level)


class ResolvedTests(SynchronousTestCase):
    """
    systemd-resolved.
    """

    def checked(self, *scopes: Scope) -> list[Check]:
        """
        What is said of it.
        """
        return check_resolved(system("127.0.0.53", scopes=scopes), LISTENING)

    def test_unused_resolved_is_not_reported(self) -> None:
        """
        Nothing is said if no lookup passes it; nss-resolve passes it whatever resolv.conf says.
        """
        self.assertEqual([], check_resolved(system("127.0.0.1"), LISTENING))
        self.assertNotEqual([], check_resolved(system("127.0.0.1", services="resolve files"), LISTENING))

    def test_missing_resolvectl_is_a_warning(self) -> None:
        """
        Without resolvectl it is a warning.
        """
        self.assertEqual([Level.WARNING], levels(self.checked()))

    def test_documented_setup_is_right(self) -> None:
        """
        dotproxy for every name, and links without servers.
        """
        checks = self.checked(Scope("", (Server("127.0.0.1"),), EVERY_NAME), Scope("eth0"))
        self.assertEqual([Level.OK, Level.OK], levels(checks))

    def test_missing_routing_domain_is_a_problem(self) -> None:
        """
        DNS=127.0.0.1 alone: every name goes to the link's server too.
        """
        checks = self.checked(Scope("", (Server("127.0.0.1"),)), Scope("eth0", (LINK_SERVER,)))
        self.assertEqual([Level.OK, Level.PROBLEM], levels(checks))
        self.assertIn("every name goes to 198.51.100.2", checks[1].found)
        self.assertIn("Domains=~.", checks[1].advice)

    def test_link_for_every_name_is_a_problem(self) -> None:
        """
        A link with ~. of its own is asked as well, as NetworkManager can make it.
        """
        for domain in ("~.", "."):
            checks = self.checked(
                Scope("", (Server("127.0.0.1"),), EVERY_NAME), Scope("eth0", (LINK_SERVER,), (domain,))
            )
            self.assertEqual(Level.PROBLEM, checks[1].level)
            self.assertIn("every name", checks[1].found)

    def test_link_with_a_domain_is_reported(self) -> None:
        """
        Names in a link's domain go to its server, whatever the global routing domain is.
        """
        link = Scope("eth0", (LINK_SERVER,), ("corp.example", "~lab.example"))
        checks = self.checked(Scope("", (Server("127.0.0.1"),), EVERY_NAME), link)
        self.assertEqual([Level.OK, Level.PROBLEM], levels(checks))
        self.assertIn("corp.example, lab.example", checks[1].found)

    def test_reverse_lookups_of_a_link_are_reported(self) -> None:
        """
        ~. alone leaves reverse lookups of the link's network to the link.
        """
        checks = self.checked(Scope("", (Server("127.0.0.1"),), ("~.",)), Scope("eth0", (LINK_SERVER,)))
        self.assertEqual([Level.OK, Level.PROBLEM], levels(checks))
        self.assertIn("reverse", checks[1].found)
        checks = self.checked(Scope("", (Server("127.0.0.1"),), EVERY_NAME), Scope("eth0", (LINK_SERVER,)))
        self.assertEqual([Level.OK, Level.OK], levels(checks))

    def test_missing_or_other_global_server_is_reported(self) -> None:
        """
        Without dotproxy as global server it is not asked; another one beside it is asked in the clear.
        """
        (check,) = self.checked(Scope("", (), EVERY_NAME))
        self.assertEqual(Level.PROBLEM, check.level)
        (check,) = self.checked(Scope("", (Server("127.0.0.1"), LINK_SERVER), EVERY_NAME))
        self.assertEqual(Level.PROBLEM, check.level)
        self.assertIn("198.51.100.2", check.found)
        (check,) = self.checked(Scope("", (LINK_SERVER,), EVERY_NAME))
        self.assertEqual(Level.PROBLEM, check.level)


class ProxyTests(SynchronousTestCase):
    """
    What dotproxy itself asks in the clear.
    """

    def test_plain_bootstrap_server_is_a_warning(self) -> None:
        """
        A plain bootstrap server is a warning; one over TLS is fine.
        """
        for bootstrap, level in (("udp://192.0.2.53", Level.WARNING), ("tls://192.0.2.53#dot.example", Level.OK)):
            config = load({"upstream": ["tls://dot.example"], "bootstrap": [bootstrap]}, {}).config
            self.assertEqual([level], levels(check_configuration(config)))
        config = load({"upstream": ["192.0.2.1#dot.example"], "bootstrap": ["udp://192.0.2.53"]}, {}).config
        (check,) = check_configuration(config)
        self.assertIn("given by address", check.found)

    def test_plaintext_queries_are_a_problem_and_bootstrap_a_warning(self) -> None:
        """
        Clients' queries without TLS are a problem, lookups for bootstrap a warning.
        """
        self.assertEqual(Level.OK, check_plaintext({"upstream": 0, "bootstrap": 0}).level)
        self.assertEqual(Level.OK, check_plaintext({}).level)
        check = check_plaintext({"upstream": 0, "bootstrap": 2})
        self.assertEqual((Level.WARNING, "the running proxy sent 2 for bootstrap"), (check.level, check.found))
        self.assertEqual(Level.PROBLEM, check_plaintext({"upstream": 1, "bootstrap": 2}).level)


class EvidenceTests(SynchronousTestCase):
    """
    What became of test names.
    """

    def test_arrival_is_seen_in_packets_or_counters(self) -> None:
        """
        Seen on the way, or by dotproxy's count less what it counts anyway; without either it cannot be told.
        """
        for evidence, level in (
            (Evidence(4, at_dotproxy=4), Level.OK),
            (Evidence(4, at_dotproxy=3), Level.PROBLEM),
            (Evidence(4, at_dotproxy=0), Level.PROBLEM),
            (Evidence(4, at_dotproxy=0, answered=0, background=0), Level.PROBLEM),
            (Evidence(4, at_dotproxy=0, answered=8, background=0), Level.OK),  # by a way that is not seen
            (Evidence(4, answered=8, background=0), Level.OK),
            (Evidence(4, answered=5, background=2), Level.PROBLEM),
            (Evidence(4, answered=0, background=0), Level.PROBLEM),
            (Evidence(4, answered=900, background=800), Level.WARNING),
            (Evidence(4), Level.WARNING),
        ):
            self.assertEqual(level, check_arrival(evidence).level, evidence)

    def test_test_names_on_port_53_are_a_problem(self) -> None:
        """
        Test names that left are a problem, other queries too unless they went to a bootstrap server.
        """
        nobody: frozenset[Server] = frozenset()
        self.assertEqual([Level.WARNING], levels(check_port_53(Evidence(4), nobody)))
        quiet = Evidence(4, left=nobody, others={})
        self.assertEqual([Level.OK], levels(check_port_53(quiet, nobody)))
        both = Evidence(4, left=frozenset({LINK_SERVER}), others={Server("192.0.2.53"): 1, Server("192.0.2.54"): 2})
        checks = check_port_53(both, frozenset({Server("192.0.2.53")}))
        self.assertEqual([Level.PROBLEM, Level.WARNING, Level.PROBLEM], levels(checks))
        self.assertIn("198.51.100.2", checks[0].found)
        self.assertIn("2 other queries", checks[2].found)
