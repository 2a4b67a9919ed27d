"""
The recipes in docs/system-resolver.md: applied as they stand there, none of them lets a query leave on port 53.

Each is shown to be needed as well: with the system as it was before, or with half of the recipe, queries do leave.
"""

import re
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dotproxy.cli.doctor.checks import Level
from dotproxy.cli.doctor.diagnosis import Listening, check_resolved
from dotproxy.cli.doctor.system import Server, SystemResolver, Writer, scopes_in
from dotproxy.testing.certificates import Authority
from dotproxy.wire.names import from_text
from tests.integration.machine import DOMAIN, WRONG, Link, Machine, debian
from tests.integration.namespaces import FAR, Namespace, joined
from tests.integration.programs import wait_until, which
from tests.integration.test_roaming import Far, Near
from tests.misbehaving.modes import address_of

PAGE = Path(__file__).parents[2] / "docs" / "system-resolver.md"

_TYPE_AND_CLASS = b"\0\1\0\1"

NAMES = tuple(f"n{number}.example.org" for number in range(5))

WIRED = """\
[connection]
id=wired
uuid=6b5b5f1e-1111-4111-8111-111111111111
type=ethernet
interface-name=cable
[ipv4]
method=auto
[ipv6]
method=disabled
"""
MANAGED = "[main]\nplugins=keyfile\n[device-cable]\nmatch-device=interface-name:cable\nmanaged=1\n"


def recipe(heading: str) -> dict[str, str]:
    """
    The files of one section of the page: each block of code whose fence names a path.
    """
    section = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert section, f"there is no section {heading}"
    files = dict(re.findall(r"^```\w+ (/\S+)\n(.*?)^```$", section[1], re.DOTALL | re.MULTILINE))
    assert files, f"{heading} has no file"
    return files


def right_address(name: str) -> str:
    """
    The address that dotproxy's upstream gives for a name.
    """
    return str(IPv4Address(address_of(from_text(f"{name}.") + _TYPE_AND_CLASS)))


class Scene:
    """
    A machine, dotproxy on it, and a network with a DHCP server that gives a DNS server and a domain of its own.
    """

    def __init__(self, machine: Machine, link: Link) -> None:
        self.machine = machine
        self.link = link

    def leaked(self, *more: str) -> list[str]:
        """
        Look names up; return what was sent to port 53 over the network.
        """
        self.link.seen()
        self.found = {name: self.machine.addresses(name) for name in (*NAMES, *more)}
        return self.link.seen()

    def assert_leaks(self) -> None:
        """
        Each of the names goes to the link's server.
        """
        seen = self.leaked()
        assert {f"{name}. IN A" for name in NAMES} <= set(seen), seen

    def assert_holds(self, *, single_label: bool = True) -> None:
        """
        Nothing is sent to port 53, whatever is asked for, and every name has the address that dotproxy's upstream gives.
        """
        assert self.leaked("printer", f"www.{DOMAIN}", "gone.invalid") == []
        for name in (*NAMES, f"www.{DOMAIN}"):
            assert self.found[name] == [right_address(name)], self.found
        if single_label:  # with a search list the suffixed name comes first
            assert self.found["printer"] in ([right_address("printer")], [right_address(f"printer.{DOMAIN}")])
        for address in ("10.77.0.77", "192.0.2.77", "2001:db8::77"):
            self.machine.run("getent", "hosts", address)
        assert self.link.seen() == []

    def problems(self) -> list[str]:
        """
        What dotproxy doctor finds wrong with systemd-resolved, by what resolvectl prints here.
        """
        scopes = scopes_in(self.machine.sh("resolvectl dns"), self.machine.sh("resolvectl domain"))
        system = SystemResolver((Server("127.0.0.53"),), Writer.RESOLVED, ("files", "dns"), scopes)
        checks = check_resolved(system, Listening((Server("127.0.0.1"),), lambda host: host.startswith("127.")))
        return [check.found for check in checks if check.level is Level.PROBLEM]

    def ask_dhcp(self) -> None:
        """
        Get a lease with dhclient.
        """
        self.machine.run("dhclient", "-x", "cable")
        self.machine.sh("dhclient -v -1 cable >/tmp/dhclient.log 2>&1")

    def add(self, heading: str) -> None:
        """
        Append the lines of a recipe to the files they belong to.
        """
        for path, text in recipe(heading).items():
            self.machine.write(path, self.machine.read(path) + text)

    def start_bus(self) -> None:
        """
        Start D-Bus, once.
        """
        if self.machine.run("pidof", "dbus-daemon").returncode:
            self.machine.sh("dbus-daemon --system --fork --nopidfile")

    def start_resolved(self) -> None:
        """
        Start systemd-resolved, with nothing known of any link from before.
        """
        self.machine.sh("mkdir -p /run/systemd/resolve && chown systemd-resolve: /run/systemd/resolve")
        self.machine.sh("ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
        self.start_bus()
        self.machine.daemon("/lib/systemd/systemd-resolved")
        wait_until(lambda: self.machine.run("resolvectl", "dns").returncode == 0, "systemd-resolved")

    def start_manager(self) -> None:
        """
        Start NetworkManager, and have it manage the cable.
        """
        self.machine.write("/etc/NetworkManager/conf.d/cable.conf", MANAGED)
        self.machine.write("/etc/NetworkManager/system-connections/wired.nmconnection", WIRED)
        self.machine.sh("chmod 600 /etc/NetworkManager/system-connections/*; mkdir -p /run/NetworkManager")
        self.start_bus()
        self.machine.daemon("NetworkManager", "--no-daemon")
        up = ("nmcli", "--wait", "20", "connection", "up", "wired")
        wait_until(lambda: self.machine.run(*up).returncode == 0, "NetworkManager")

    def remove_resolved(self) -> None:
        """
        Remove systemd-resolved, which comes with a resolvconf of its own.
        """
        self.machine.sh("dpkg --purge --force-all systemd-resolved >/tmp/purge.log 2>&1; rm -f /etc/resolv.conf")

    def install(self, package: str) -> None:
        """
        Install what conflicts with systemd-resolved.
        """
        self.remove_resolved()
        self.machine.sh(f"dpkg --install --force-all /var/cache/wanted/{package}_*.deb >/tmp/install.log 2>&1")


pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """
    A Debian that all machines start from.
    """
    with debian(tmp_path_factory.mktemp("debian")) as made:
        yield made


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, ca_file: Path
) -> Iterator[tuple[Namespace, Link]]:
    """
    dotproxy and its upstream, a DHCP server, and the link's DNS server.
    """
    folder = tmp_path_factory.mktemp("network")
    near, far = joined()
    certificate, key = authority.issue(["dot.test"]).write(folder, "server")
    server = Far(far, folder, "healthy", certificate, key, 1)
    options = ("--listen", "127.0.0.1:5300")
    upstream = (f"tls://{FAR}:{server.port}#dot.test",)
    proxy = Near(near, folder / "proxy.log", ca_file, upstream, options, "127.0.0.1:53")
    serves = ["--dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,1h", f"--dhcp-option=6,{FAR}", f"--domain={DOMAIN}"]
    quiet = [
        "--port=0",
        "--interface=cable",
        "--bind-interfaces",
        "--keep-in-foreground",
        "--no-ping",
        "--leasefile-ro",
    ]
    with (folder / "dhcp.log").open("w") as log:
        dhcp = subprocess.Popen(
            far.inside([which("dnsmasq"), *quiet, *serves, "--conf-file=/dev/null", "--log-facility=-"]), stderr=log
        )
    link = Link(near, far)
    try:
        server.start()
        proxy.start()
        yield near, link
    finally:
        proxy.stop()
        server.stop()
        dhcp.terminate()
        dhcp.wait(10)
        link.stop()
        near.remove()
        far.remove()


@pytest.fixture
def scene(root: Path, network: tuple[Namespace, Link], tmp_path: Path) -> Iterator[Scene]:
    """
    A machine as it was installed.
    """
    near, link = network
    machine = Machine(tmp_path, root, near)
    machine.start()
    try:
        yield Scene(machine, link)
    finally:
        machine.stop()
        near.ip("addr", "flush", "dev", "cable", "scope", "global")
        near.ip("addr", "add", "10.77.0.2/24", "dev", "cable")


def test_static_resolv_conf(scene):
    """
    A resolv.conf that names dotproxy and nobody else.
    """
    scene.machine.write("/etc/resolv.conf", f"nameserver {FAR}\n")
    scene.assert_leaks()
    assert scene.found[NAMES[0]] == [WRONG]
    scene.machine.write("/etc/resolv.conf", recipe("Nothing manages it")["/etc/resolv.conf"])
    scene.assert_holds()


def start_networkd(scene: Scene, **more: str) -> None:
    """
    Start systemd-networkd with a link that takes all that its DHCP server gives, domains too.
    """
    network = "[Match]\nName=cable\n[Network]\nDHCP=ipv4\n[DHCPv4]\nUseDomains=yes\n"
    scene.machine.write("/etc/systemd/network/cable.network", network)
    for path, text in more.items():
        scene.machine.write(path, text)
    scene.machine.sh("mkdir -p /run/systemd/netif/links /run/systemd/netif/leases")
    scene.machine.sh("chown -R systemd-network: /run/systemd/netif")
    scene.machine.daemon("/lib/systemd/systemd-networkd")
    wait_until(lambda: "routable" in scene.machine.run("networkctl").stdout, "a lease")


def test_systemd_resolved_needs_the_recipe(scene):
    """
    With DNS=127.0.0.1 alone every name goes to the link's server; with ~. and a link that has a domain, names in it do.
    """
    path = "/etc/systemd/resolved.conf.d/dotproxy.conf"
    scene.machine.write(path, "[Resolve]\nDNS=127.0.0.1\n")
    scene.start_resolved()
    start_networkd(scene)
    wait_until(lambda: FAR in scene.machine.run("resolvectl", "dns").stdout, "the link's server")
    scene.assert_leaks()
    assert scene.problems() == [f"every name goes to {FAR} too, in the clear"]
    scene.machine.write(path, recipe("systemd-resolved")[path])
    scene.machine.sh("resolvectl dns cable ''; kill -9 $(pidof systemd-resolved)")
    scene.start_resolved()
    scene.machine.sh(f"resolvectl dns cable {FAR}; resolvectl domain cable {DOMAIN}")
    assert scene.leaked() == []
    assert f"www.{DOMAIN}. IN A" in scene.leaked(f"www.{DOMAIN}")
    (problem,) = scene.problems()
    assert problem.startswith(f"names below {DOMAIN}, ")


def test_systemd_resolved(scene):
    """
    systemd-resolved with links of systemd-networkd; a single label is no name that it asks any DNS server for.
    """
    for path, text in recipe("systemd-resolved").items():
        scene.machine.write(path.replace("/NAME.", "/cable."), text)
    scene.start_resolved()
    start_networkd(scene)
    assert scene.machine.sh("resolvectl domain") == "Global: ~. ~in-addr.arpa ~ip6.arpa\nLink 2 (cable):\n"
    scene.assert_holds(single_label=False)


def test_systemd_resolved_while_it_runs(scene):
    """
    The recipe takes effect with a restart of systemd-resolved and systemd-networkd, as the page says.
    """
    scene.machine.write("/etc/systemd/resolved.conf.d/other.conf", "[Resolve]\nDNS=127.0.0.1\n")
    scene.start_resolved()
    start_networkd(scene)
    wait_until(lambda: FAR in scene.machine.run("resolvectl", "dns").stdout, "the link's server")
    for path, text in recipe("systemd-resolved").items():
        scene.machine.write(path.replace("/NAME.", "/cable."), text)
    scene.machine.sh("kill $(pidof systemd-resolved systemd-networkd)")
    wait_until(lambda: scene.machine.run("pidof", "systemd-resolved", "systemd-networkd").returncode, "their end")
    scene.start_resolved()
    start_networkd(scene)
    wait_until(lambda: FAR not in scene.machine.sh("resolvectl dns"), "that the link has no server")
    scene.assert_holds(single_label=False)


def test_network_manager(scene):
    """
    NetworkManager writes resolv.conf.
    """
    scene.remove_resolved()
    scene.start_manager()
    wait_until(lambda: FAR in scene.machine.read("/etc/resolv.conf"), "NetworkManager's resolv.conf")
    scene.assert_leaks()
    scene.add("NetworkManager")
    scene.machine.sh("kill $(pidof NetworkManager)")
    wait_until(lambda: scene.machine.run("pidof", "NetworkManager").returncode, "its end")
    scene.start_manager()
    wait_until(lambda: FAR not in scene.machine.read("/etc/resolv.conf"), "NetworkManager's resolv.conf")
    assert "nameserver 127.0.0.1\n" in scene.machine.read("/etc/resolv.conf")
    scene.assert_holds()


def test_network_manager_needs_to_be_told_beside_systemd_resolved(scene):
    """
    With the recipe for systemd-resolved alone, NetworkManager gives it the link's server and domain; when it was told
    not to, and what it gave was reverted, nothing leaves.
    """
    for path, text in recipe("systemd-resolved").items():
        scene.machine.write(path, text)
    scene.start_resolved()
    scene.start_manager()
    wait_until(lambda: FAR in scene.machine.sh("resolvectl dns"), "the link's server")
    assert f"printer.{DOMAIN}. IN A" in scene.leaked("printer")
    for path, text in recipe("NetworkManager with systemd-resolved").items():
        scene.machine.write(path, text)
    scene.machine.sh("kill $(pidof NetworkManager)")
    wait_until(lambda: scene.machine.run("pidof", "NetworkManager").returncode, "its end")
    scene.start_manager()
    scene.machine.sh("resolvectl revert cable")
    assert scene.machine.sh("resolvectl dns") == "Global: 127.0.0.1\nLink 2 (cable):\n"
    scene.assert_holds(single_label=False)


def test_network_manager_with_systemd_resolved(scene):
    """
    With both recipes nothing leaves.
    """
    for heading in ("systemd-resolved", "NetworkManager with systemd-resolved"):
        for path, text in recipe(heading).items():
            scene.machine.write(path, text)
    scene.start_resolved()
    scene.start_manager()
    assert scene.machine.sh("resolvectl dns") == "Global: 127.0.0.1\nLink 2 (cable):\n"
    scene.assert_holds(single_label=False)


def test_dhclient(scene):
    """
    dhclient writes resolv.conf, with each lease.
    """
    scene.remove_resolved()
    scene.machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    scene.ask_dhcp()
    scene.assert_leaks()
    scene.add("dhclient")
    scene.ask_dhcp()
    scene.assert_holds()


def test_openresolv(scene):
    """
    openresolv writes resolv.conf of what dhclient tells it.
    """
    scene.install("openresolv")
    scene.ask_dhcp()
    scene.assert_leaks()
    scene.add("openresolv")
    scene.machine.sh("resolvconf -u")
    scene.assert_holds()
    scene.ask_dhcp()
    assert FAR not in scene.machine.read("/etc/resolv.conf")


def test_resolvconf(scene):
    """
    Debian's resolvconf writes resolv.conf of what dhclient and ifupdown tell it.
    """
    scene.install("resolvconf")
    scene.machine.sh("ln -sf /run/resolvconf/resolv.conf /etc/resolv.conf; resolvconf --enable-updates")
    scene.ask_dhcp()
    scene.assert_leaks()
    for path, text in recipe("resolvconf").items():
        scene.machine.write(path, text)
    scene.machine.sh("mkdir -p /run/network; ifup --force lo")
    scene.assert_holds()
    scene.ask_dhcp()
    assert FAR not in scene.machine.read("/etc/resolv.conf")


def test_dnsmasq(scene):
    """
    dnsmasq between the machine's programs and dotproxy: without no-resolv it asks the link's server too.
    """
    ((_, lines),) = recipe("dnsmasq").items()
    scene.machine.write("/etc/resolv.conf", "nameserver 127.0.0.3\n")
    scene.machine.write("/etc/resolv.dhcp", f"nameserver {FAR}\n")
    asked = (
        "--keep-in-foreground",
        "--bind-interfaces",
        "--listen-address=127.0.0.3",
        "--resolv-file=/etc/resolv.dhcp",
    )
    for text, leaks in ((lines.replace("no-resolv\n", ""), True), (lines, False)):
        scene.machine.write("/etc/dnsmasq.d/dotproxy.conf", text)
        scene.machine.daemon("dnsmasq", *asked, "--conf-file=/etc/dnsmasq.d/dotproxy.conf", "--user=root")
        wait_until(lambda: ":53 " in scene.machine.run("ss", "-lun", "src", "127.0.0.3").stdout, "dnsmasq")
        if leaks:
            assert scene.leaked()
            scene.machine.sh("kill $(pidof dnsmasq)")
            wait_until(lambda: not scene.machine.run("ss", "-Hlun", "src", "127.0.0.3").stdout, "dnsmasq's end")
        else:
            scene.assert_holds()
