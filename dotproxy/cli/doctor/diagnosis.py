"""
What is wrong with this machine's name resolution, and what to do about it.

Decides what counts as a leak, from the findings of ``system``, ``observation`` and the running proxy.  Pure: reads no
file and sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dotproxy.cli.doctor.checks import Check, ok, problem, warning
from dotproxy.cli.doctor.system import STUBS, Scope, Server, SystemResolver, Writer
from dotproxy.config.model import Config

_PAGE = "docs/system-resolver.md"

#: Routing domains by which reverse lookups of a link's own network do not go to the link's server.
_REVERSE = frozenset({"~in-addr.arpa", "~ip6.arpa"})


@dataclass(frozen=True, slots=True)
class Listening:
    """
    dotproxy's listen addresses; ``is_local`` returns whether an address is one of this machine's.
    """

    servers: tuple[Server, ...]
    is_local: Callable[[str], bool]

    def includes(self, server: Server) -> bool:
        """
        Return whether queries to ``server`` reach dotproxy; it may listen on every local address.
        """
        if server in self.servers:
            return True
        wildcard = "::" if ":" in server.host else "0.0.0.0"
        return Server(wildcard, server.port) in self.servers and self.is_local(server.host)


def check_resolv_conf(system: SystemResolver, listening: Listening) -> list[Check]:
    """
    Judge each nameserver of resolv.conf.
    """
    checks: list[Check] = []
    name, recipe = "resolv.conf", _recipe(system.writer)
    for server in system.nameservers:
        if listening.includes(server):
            checks.append(ok(name, f"nameserver {server} is dotproxy"))
        elif server.host in STUBS:
            checks.append(ok(name, f"nameserver {server} is systemd-resolved, which forwards to others (see below)"))
        elif listening.is_local(server.host):
            found = f"nameserver {server} is on this machine and is not dotproxy, which listens on {_all(listening)}"
            checks.append(warning(name, found, f"let that server forward to dotproxy only (dnsmasq in {_PAGE})"))
        else:
            checks.append(problem(name, f"queries to nameserver {server} leave in the clear", recipe))
    return checks


def check_nsswitch(system: SystemResolver) -> Check:
    """
    Judge whether lookups of this machine's programs use DNS at all.
    """
    name, services = "nsswitch.conf", system.services
    asked = ", ".join(services)
    if not {"dns", "resolve"} & set(services):
        return warning(name, f"hosts are looked up by {asked}: not by DNS", "add dns to the line hosts:")
    return ok(name, f"hosts are looked up by {asked}")


def check_resolved(system: SystemResolver, listening: Listening) -> list[Check]:
    """
    Judge the servers and domains of systemd-resolved, if lookups pass it.
    """
    if not system.uses_resolved:
        return []
    name = "systemd-resolved"
    if not system.scopes:
        return [warning(name, "resolvectl does not show the servers", "run resolvectl status")]
    everywhere = next((scope for scope in system.scopes if not scope.link), Scope(""))
    others = [server for server in everywhere.servers if not listening.includes(server)]
    advice = f"write the configuration of {_PAGE}, section systemd-resolved"
    checks: list[Check] = []
    if others:
        checks.append(problem(name, f"forwards every name to {_listed(others)}", advice))
    if len(others) == len(everywhere.servers):
        if not others:
            checks.append(problem(name, "does not forward to dotproxy: there is no global DNS server", advice))
    elif not others:
        checks.append(ok(name, f"forwards to dotproxy ({_listed(everywhere.servers)})"))
    for scope in system.scopes:
        if scope.link:
            checks += _check_link(scope, everywhere, listening, advice)
    return checks


def _check_link(scope: Scope, everywhere: Scope, listening: Listening, advice: str) -> list[Check]:
    """
    Judge one link of systemd-resolved: which names go to its servers.
    """
    name, others = f"systemd-resolved, {scope.link}", [one for one in scope.servers if not listening.includes(one)]
    if not others:
        return [ok(name, "has no DNS server of its own")] if not scope.servers else [ok(name, "forwards to dotproxy")]
    servers = _listed(others)
    if "~." not in everywhere.domains or {"~.", "."} & set(scope.domains):
        return [problem(name, f"every name goes to {servers} too, in the clear", f"{advice}: Domains=~.")]
    checks: list[Check] = []
    if scope.domains:
        domains = ", ".join(domain.removeprefix("~") for domain in scope.domains)
        found = (
            f"names below {domains}, and single labels and unknown names with that suffix, go to {servers} in the clear"
        )
        checks.append(problem(name, found, f"remove the link's DNS servers ({_PAGE})"))
    if not set(everywhere.domains) >= _REVERSE:
        found = f"reverse lookups of the link's own network go to {servers} too, in the clear"
        checks.append(problem(name, found, f"{advice}: Domains=~. ~in-addr.arpa ~ip6.arpa"))
    return checks or [ok(name, f"no query goes to {servers}: dotproxy is used for every name")]


def check_configuration(config: Config) -> list[Check]:
    """
    Judge what dotproxy itself would send in the clear.
    """
    plain = [str(server) for server in config.bootstrap if server.plain]
    named = [address.label for address in config.upstream if address.host]
    if not plain:
        return [ok("bootstrap", "no upstream's name is looked up in the clear")]
    found = f"names of upstreams are looked up in the clear at {', '.join(plain)}"
    if not named:
        found = f"{', '.join(plain)} would be queried in the clear, but every upstream is given by address"
    return [warning("bootstrap", found, "give upstreams by address, or a bootstrap server as tls://ADDRESS#NAME")]


def check_plaintext(counted: Mapping[str, int]) -> Check:
    """
    Judge what the running proxy has sent without TLS, by purpose.
    """
    name = "sent without TLS"
    if counted.get("upstream"):
        found = f"{counted['upstream']} queries of clients left without TLS"
        return problem(name, found, "this must not happen: report it as a security problem")
    others = {purpose: count for purpose, count in counted.items() if count}
    if others:
        told = ", ".join(f"{count} for {purpose}" for purpose, count in others.items())
        return warning(name, f"the running proxy sent {told}", "give upstreams by address")
    return ok(name, "nothing, by the running proxy's count")


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    Where the queries for test names went, which were looked up as any program does.

    ``names`` is their number, ``at_dotproxy`` how many were sent to dotproxy (None without a packet capture).
    ``answered`` is by how much the running proxy's number of responses grew meanwhile, ``background`` by how much it
    grew in a period before (None if its status cannot be had).  ``left`` are other servers to which test names went on
    port 53, ``others`` how many other queries went to which server; both None without a packet capture.
    """

    names: int
    at_dotproxy: int | None = None
    answered: int | None = None
    background: int | None = None
    left: frozenset[Server] | None = None
    others: Mapping[Server, int] | None = None


def check_arrival(evidence: Evidence) -> Check:
    """
    Judge whether what this machine's programs look up arrives at dotproxy.
    """
    name, of = "arrival", f"of {evidence.names} test names that were looked up"
    advice = f"make dotproxy the system's resolver ({_PAGE})"
    if evidence.at_dotproxy is not None:
        if evidence.at_dotproxy == evidence.names:
            return ok(name, f"{evidence.names} {of}, all were sent to dotproxy")
        if evidence.at_dotproxy or evidence.answered is None:
            return problem(name, f"{evidence.at_dotproxy} {of} were sent to dotproxy", advice)
    if evidence.answered is None or evidence.background is None:
        return warning(name, "unknown", "set admin_socket, or run this as root on dotproxy's machine")
    grew = evidence.answered - evidence.background
    if evidence.background >= evidence.names:
        return warning(name, "unknown: dotproxy is busy with other queries", "run this as root")
    if grew >= evidence.names:
        return ok(name, f"{evidence.names} {of}, all arrived at dotproxy, by its own count")
    return problem(name, f"{max(grew, 0)} {of} arrived at dotproxy, by its own count", advice)


def check_port_53(evidence: Evidence, allowed: frozenset[Server]) -> list[Check]:
    """
    Judge what left this machine on port 53 while the test names were looked up; ``allowed`` are bootstrap servers.
    """
    name = "port 53"
    if evidence.left is None or evidence.others is None:
        return [warning(name, "not checked: only root may capture packets", "run this as root")]
    checks: list[Check] = []
    if evidence.left:
        found = f"test names left in the clear, to {_listed(sorted(evidence.left))}"
        checks.append(problem(name, found, f"make dotproxy the only server ({_PAGE})"))
    for server, count in evidence.others.items():
        found = f"{count} other {'query' if count == 1 else 'queries'} left in the clear, to {server}"
        if server in allowed:
            checks.append(warning(name, f"{found}, a bootstrap server"))
        else:
            checks.append(problem(name, found, "find the program that sends them: ss -uptn dport = :53"))
    return checks or [ok(name, "nothing left in the clear while test names were looked up")]


def _recipe(writer: Writer) -> str:
    advice = f"name dotproxy only: {_PAGE}, section {writer.value}"
    return advice if writer is not Writer.UNKNOWN else f"{advice}, or of the program that writes it (DHCP client, VPN)"


def _listed(servers: Sequence[Server]) -> str:
    return ", ".join(map(str, servers))


def _all(listening: Listening) -> str:
    return ", ".join(f"{server.host} port {server.port}" for server in listening.servers)
