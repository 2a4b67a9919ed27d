"""
The resolvers that programs use, with dotproxy as their name server.
"""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import dns.asyncresolver
import dns.dnssec
import dns.message
import dns.name
import dns.resolver
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.integration.ports import loopback_address
from tests.integration.programs import Program, Proxy, free_port, run, which
from tests.integration.servers import LONG_TXT, ZONE, Nsd

SIXTY = {f"10.9.8.{n}" for n in range(60)}
STUB_ZONE = ZONE + "\n".join(f"sixty A {address}" for address in sorted(SIXTY)) + "\n"

LOOKUP_C = """\
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    struct addrinfo hints, *found, *one;
    char text[64];
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(argv[1], "80", &hints, &found)) { puts("error"); return 1; }
    for (one = found; one; one = one->ai_next) {
        void *address = one->ai_family == AF_INET
            ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
            : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        puts(inet_ntop(one->ai_family, address, text, sizeof text));
    }
    return 0;
}
"""

LOOKUP_JS = """\
const { Resolver } = require("dns").promises;
const resolver = new Resolver();
resolver.setServers([process.argv[2]]);
(async () => {
    const names = Array.from({ length: 100 }, (_, n) => `n${n}.wild.lab.example`);
    const all = await Promise.all(names.map((name) => resolver.resolve4(name)));
    const long = await resolver.resolveTxt("long.lab.example");
    const missing = await resolver.resolve4("nothing.lab.example").catch((error) => error.code);
    console.log(JSON.stringify({ right: all.filter((a) => a[0] === "192.0.2.99").length,
                                 long: long[0].join("").length, missing }));
})();
"""


@pytest.fixture
def on_port_53(serve, ca_file: Path, tmp_path: Path):
    """
    dotproxy on port 53 of an address of its own, where stubs without a choice of port look.
    """
    host = loopback_address()
    upstream = serve(Nsd, zone=STUB_ZONE).upstream
    program = Proxy(tmp_path / "proxy53.log", ca_file, (upstream,), listen=f"{host}:53")
    program.host, program.port = host, 53
    try:
        program.start()
    except Exception as error:
        pytest.skip(f"port 53 cannot be had: {error}")
    yield program
    program.stop()


def with_name_server(host: str, folder: Path, options: str, *command: str) -> str:
    """
    Run a command for which ``host`` is the system's name server; return what it printed.
    """
    (folder / "resolv.conf").write_text(f"nameserver {host}\noptions timeout:3 attempts:2 {options}\n")
    (folder / "nsswitch.conf").write_text("hosts: dns\n")
    mounts = "".join(
        f"mount --bind {folder / name} $(readlink -f /etc/{name}) && " for name in ("resolv.conf", "nsswitch.conf")
    )
    script = f'{mounts}exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=30, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    return done.stdout


@pytest.mark.parametrize(
    "options", ["", "edns0", "use-vc", "trust-ad", "single-request", "single-request-reopen", "rotate"]
)
def test_glibc_gets_a_and_aaaa(options, on_port_53, tmp_path):
    """
    getaddrinfo asks for A and AAAA together from one socket, with any options, and gets both (RFC 7766 §5 for use-vc).
    """
    told = with_name_server(on_port_53.host, tmp_path, options, "getent", "ahosts", "www.lab.example")
    assert {line.split()[0] for line in told.splitlines()} == {"192.0.2.1", "2001:db8::1"}
    told = with_name_server(on_port_53.host, tmp_path, options, "getent", "ahostsv4", "sixty.lab.example")
    assert {line.split()[0] for line in told.splitlines()} == SIXTY
    assert with_name_server(on_port_53.host, tmp_path, options, "getent", "ahosts", "nothing.lab.example") == ""


def test_musl_reads_truncated_responses(on_port_53, tmp_path):
    """
    musl's stub, of which older ones know no TCP, finds addresses in a truncated answer (RFC 2181 §9).
    """
    which("musl-gcc")
    (tmp_path / "lookup.c").write_text(LOOKUP_C)
    subprocess.run(["musl-gcc", "-static", "-o", tmp_path / "lookup", tmp_path / "lookup.c"], check=True)
    told = with_name_server(on_port_53.host, tmp_path, "", str(tmp_path / "lookup"), "www.lab.example")
    assert set(told.split()) == {"192.0.2.1", "2001:db8::1"}
    told = with_name_server(on_port_53.host, tmp_path, "", str(tmp_path / "lookup"), "sixty.lab.example")
    assert len(set(told.split()) & SIXTY) >= 25
    assert with_name_server(on_port_53.host, tmp_path, "", str(tmp_path / "lookup"), "nothing.lab.example") == "error\n"


def test_c_ares_resolves(serve, proxy, tmp_path):
    """
    Node's resolver, which is c-ares: a hundred names at once, a truncated answer asked again over TCP, a name that is
    not there.
    """
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    program = proxy(serve(Nsd, zone=STUB_ZONE).upstream, cache=True)
    (tmp_path / "lookup.js").write_text(LOOKUP_JS)
    told = run(node, str(tmp_path / "lookup.js"), f"127.0.0.1:{program.port}")
    assert told.strip() == f'{{"right":100,"long":{LONG_TXT - 17},"missing":"ENOTFOUND"}}'


def test_dnspython_resolves(serve, proxy):
    """
    dnspython, with and without asyncio, over UDP and TCP, with EDNS and without.
    """
    program = proxy(serve(Nsd, zone=STUB_ZONE).upstream, cache=True)
    for resolver in (dns.resolver.Resolver(configure=False), dns.asyncresolver.Resolver(configure=False)):
        resolver.nameservers, resolver.port = ["127.0.0.1"], program.port
        for tcp in (False, True):
            for edns in (-1, 0):
                resolver.use_edns(edns, 0, 1232)
                answer = resolver.resolve("sixty.lab.example.", "A", tcp=tcp)
                if asyncio.iscoroutine(answer):
                    answer = asyncio.run(answer)
                assert {rdata.address for rdata in answer} == SIXTY


def test_delv_validates(serve, proxy, tmp_path):
    """
    delv, which validates: every record it needs comes through, for names that are there and for those that are not
    (RFC 4035 §3.2.1).
    """
    origin = dns.name.from_text("lab.example.")
    zone = dns.zone.from_text(STUB_ZONE, origin, relativize=False)
    key = ed25519.Ed25519PrivateKey.generate()
    dnskey = dns.dnssec.make_dnskey(key.public_key(), dns.dnssec.Algorithm.ED25519, flags=257)
    with zone.writer() as txn:
        dns.dnssec.sign_zone(zone, txn, [(key, dnskey)], lifetime=86400, add_dnskey=True, dnskey_ttl=300)
    text = "$ORIGIN lab.example.\n" + zone.to_text(relativize=False) + "\n"
    program = proxy(serve(Nsd, zone=text).upstream, cache=True)
    anchor = tmp_path / "anchor"
    anchor.write_text(
        f'trust-anchors {{ lab.example. static-key 257 3 15 "{dnskey.to_text().split(" ", 3)[3].replace(" ", "")}"; }};\n'
    )
    common = (f"@{program.host}", "-p", str(program.port), "-a", str(anchor), "+root=lab.example", "+vtrace")
    for name, rtype, told in (
        ("www", "A", "; fully validated"),
        ("long", "TXT", "; fully validated"),
        ("nx", "A", "; negative response, fully validated"),
    ):
        assert told in run("delv", *common, f"{name}.lab.example", rtype), name


class Dnsmasq(Program):
    """
    dnsmasq in front of a proxy.
    """

    def __init__(self, folder: Path, behind: Proxy) -> None:
        super().__init__(folder / "dnsmasq.log")
        self.executable = which("dnsmasq")
        self.port = free_port()
        self.behind = behind

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [
            *(
                self.executable,
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
                "--user=root",
            ),
            *(f"--port={self.port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-"),
            f"--server=127.0.0.1#{self.behind.port}",
        ]

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "started" in self.said()


class UnboundInFront(Program):
    """
    Unbound, forwarding to a proxy.
    """

    def __init__(self, folder: Path, behind: Proxy) -> None:
        super().__init__(folder / "unbound.log")
        self.executable = which("unbound")
        self.port = free_port()
        self.config = folder / "unbound.conf"
        self.config.write_text(f"""
server:
    interface: 127.0.0.1@{self.port}
    do-not-query-localhost: no
    module-config: "iterator"
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    verbosity: 1
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@{behind.port}
""")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [self.executable, "-d", "-c", str(self.config)]

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "start of service" in self.said()


@pytest.mark.parametrize("kind", [Dnsmasq, UnboundInFront], ids=lambda kind: kind.__name__)
def test_other_forwarders_in_front_get_everything(kind, serve, proxy, tmp_path):
    """
    Another forwarder in front gets everything it asks for, short and long, over UDP and TCP, and what is not there.
    """
    program = kind(tmp_path, proxy(serve(Nsd, zone=STUB_ZONE).upstream, cache=True))
    program.start()
    try:
        common = ("@127.0.0.1", "-p", str(program.port), "+short")
        for way in ("+notcp", "+tcp"):
            assert run("dig", *common, way, "www.lab.example", "A") == "192.0.2.1\n"
            assert set(run("dig", *common, way, "+bufsize=1232", "sixty.lab.example", "A").split()) == SIXTY
        assert len(run("dig", *common, "long.lab.example", "TXT")) > LONG_TXT
        assert "NXDOMAIN" in run("dig", *common[:3], "nothing.lab.example", "A")
        for number in range(50):
            assert run("dig", *common, f"n{number}.wild.lab.example", "A") == "192.0.2.99\n"
    finally:
        program.stop()


def test_python_resolves_in_threads(on_port_53, tmp_path):
    """
    Python's own getaddrinfo, a hundred names by ten threads.
    """
    script = (
        "import socket, concurrent.futures as f\n"
        "with f.ThreadPoolExecutor(10) as pool:\n"
        "    found = list(pool.map(lambda n: socket.gethostbyname(f'n{n}.wild.lab.example'), range(100)))\n"
        "print(found.count('192.0.2.99'))\n"
    )
    assert with_name_server(on_port_53.host, tmp_path, "", sys.executable, "-c", script) == "100\n"
