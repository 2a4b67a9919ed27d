"""
Record what real servers and clients say: python -m fuzz.capture writes fuzz/corpus/captured.

Decides what is asked.  NSD, BIND, Unbound, Knot Resolver and dnsdist serve one signed zone on loopback; dig and kdig
ask each of them through a relay that keeps every query and its response.  Unbound, Knot Resolver and dnsdist reach NSD
through relays as well, so that their own queries are kept.  Needs the packages of tests/integration/packages.txt; run
by hand when the corpus is to be made anew.
"""

from __future__ import annotations

import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import dns.dnssec
import dns.message
import dns.name
import dns.query
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.rdtypes.ANY.DNSKEY import DNSKEY

from fuzz.corpora import Exchange, write

#: Exchanges longer than this are not kept: they make the corpus large and fuzzing slow.
LONGEST = 8192

#: In the third octet of a header.
TC = 2

#: What is kept of one source at most.
MOST = 90

KEY = "hmac-sha256:fuzz-key:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"

ZONE = f"""\
$ORIGIN fuzz.example.
$TTL 300
@       SOA ns.fuzz.example. admin.fuzz.example. 1 3600 600 86400 60
@       NS ns
@       CAA 0 issue "ca.fuzz.example"
@       MX 10 mail
ns      A 127.0.0.1
www     A 192.0.2.1
www     AAAA 2001:db8::1
www     HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
_dns    SVCB 1 ns.fuzz.example. alpn=dot port=853
alias   CNAME alias2
alias2  CNAME www
mx      MX 10 mail
mx      MX 20 mail2.other.example.
tree    DNAME elsewhere.fuzz.example.
x.elsewhere A 192.0.2.7
_sip._udp SRV 1 2 5060 www
naptr   NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@fuzz.example!" .
host    HINFO "PC" "OS"
host    SSHFP 1 1 0123456789abcdef0123456789abcdef01234567
host    LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
_443._tcp.www TLSA 3 1 1 {"ab" * 32}
unk     TYPE65280 \\# 5 0102030405
a\\000\\255\\.b A 192.0.2.3
long    TXT {" ".join('"' + "abcdefghij" * 25 + '"' for _ in range(12))}
*.wild  A 192.0.2.99
sub     NS ns.sub
ns.sub  A 192.0.2.53
""" + "".join(f"many A 10.0.{number // 256}.{number % 256}\nmanytxt TXT t{number}\n" for number in range(60))

#: Options of kdig and dig, each for one query.
KDIG = """
www A
www AAAA +dnssec
www A +nsid +bufsize=4096
www A +padding=128 +dnssec
www A +subnet=192.0.2.0/24
www A +cookie
www HTTPS
www A +edns=1
www A +ednsopt=65001:0102030405
www A +noedns
www A +bufsize=512 +dnssec
www A +cdflag +adflag
www A +tcp +keepalive
_dns SVCB
alias A
alias AAAA +dnssec
mx MX
many A
many A +bufsize=512
many A +tcp
manytxt TXT +bufsize=4096
manytxt TXT +tcp +dnssec
long TXT
long TXT +tcp
x.tree A
x.tree A +dnssec
_sip._udp SRV
naptr NAPTR
host HINFO
host SSHFP
host LOC
_443._tcp.www TLSA +dnssec
unk TYPE65280
a\\000\\255\\.b A
one.wild A +dnssec
no.such.name A
no.such.name A +dnssec
@ SOA
@ NS +dnssec
@ MX
@ CAA
@ DNSKEY +dnssec
@ DS
@ NSEC +dnssec
@ NSEC3PARAM
@ RRSIG
@ ANY
@ ANY +tcp +dnssec
@ TYPE65281
@ AXFR +tcp
@ IXFR=0 +tcp
x.sub A
www A +tls-hostname=x
""".strip().splitlines()
DIG = """
www A
www A +cookie=0123456789abcdef +nsid +expire
www A +subnet=2001:db8::/56
www A +nocookie +noedns +norec
www A +opcode=notify
www A +opcode=status
www A +opcode=update
www A +ednsflags=0x4000 +ednsopt=10:01 +ednsopt=15:0006
www A +header-only
WwW A +dnssec +multi
www -c CH TXT
version.bind. -c CH TXT
id.server. -c CH TXT
2.0.192.in-addr.arpa. PTR
localhost. A
other.example. A
many A +bufsize=1232 +dnssec
alias A +cdflag +aaflag
@ AXFR
www A +padding=256 +keepalive +tcp
www A +zflag +tcflag
""".strip().splitlines()


class Relay:
    """
    Passes UDP and TCP on to a port of 127.0.0.1; ``kept`` holds what went through.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.kept: list[Exchange] = []
        relay = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                query, out = self.request
                with socket.socket(type=socket.SOCK_DGRAM) as onward:
                    onward.settimeout(3)
                    onward.sendto(query, ("127.0.0.1", relay.target))
                    try:
                        response = onward.recv(65535)
                    except OSError:
                        return
                relay.kept.append((query, response))
                out.sendto(response, self.client_address)

        class Stream(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", relay.target), 3) as onward:
                    while (query := _read(self.request)) is not None:
                        onward.sendall(len(query).to_bytes(2, "big") + query)
                        response = _read(onward)
                        if response is None:
                            return
                        relay.kept.append((query, response))
                        self.request.sendall(len(response).to_bytes(2, "big") + response)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._udp = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Datagram)
        self.port = self._udp.server_address[1]
        self._tcp = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Stream)
        for server in (self._udp, self._tcp):
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()


def _read(stream: socket.socket) -> bytes | None:
    """
    Return the next message of a stream, None if there is none within three seconds.
    """
    stream.settimeout(3)
    need, octets = 2, b""
    while len(octets) < need:
        try:
            piece = stream.recv(need - len(octets))
        except OSError:
            return None
        if not piece:
            return None
        octets += piece
        if len(octets) == 2:
            need = 2 + int.from_bytes(octets, "big")
    return octets[2:]


def signed_zone() -> str:
    """
    Return the zone, signed with a key that nobody keeps.
    """
    zone = dns.zone.from_text(ZONE, relativize=False)
    private = ec.generate_private_key(ec.SECP256R1())
    key: DNSKEY = dns.dnssec.make_dnskey(private.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=257)
    with zone.writer() as writer:
        dns.dnssec.sign_zone(zone, writer, keys=[(private, key)], lifetime=86400 * 3650, add_dnskey=True)
    return zone.to_text(relativize=False)


def free_port() -> int:
    """
    Return a port that nobody has.
    """
    with socket.socket() as stream:
        stream.bind(("127.0.0.1", 0))
        return int(stream.getsockname()[1])


class Servers:
    """
    The five servers, in a folder; ``ports`` by name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        self.ports: dict[str, int] = {}
        self.behind: dict[str, Relay] = {}
        (folder / "zone").write_text(signed_zone())
        folder.chmod(0o755)

    def start(self) -> None:
        """
        Start them: the authoritative ones first, the others behind relays to NSD.
        """
        port, folder = self._new("nsd"), self._folder
        self._run(
            "nsd",
            f"""server:
  ip-address: 127.0.0.1@{port}
  username: ""
  zonesdir: "{folder}"
  database: ""
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd"
  xfrdir: "{folder}"
  zonelistfile: "{folder}/zonelist"
  nsid: "ascii_nsd"
  answer-cookie: yes
remote-control:
  control-enable: no
zone:
  name: fuzz.example
  zonefile: zone
  provide-xfr: 127.0.0.1 NOKEY
""",
            "-d",
            "-c",
        )
        port = self._new("bind")
        self._run(
            "named",
            f"""options {{
  directory "{folder}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no;
  allow-transfer {{ any; }}; pid-file none; session-keyfile none; server-id "bind"; dnssec-validation no;
}};
controls {{ }};
zone "fuzz.example" {{ type primary; file "zone"; check-names ignore; }};
""",
            "-g",
            "-c",
        )
        for name in ("unbound", "kresd", "dnsdist"):
            self.behind[name] = Relay(self.ports["nsd"])
        port = self._new("unbound")
        self._run(
            "unbound",
            f"""server:
  interface: 127.0.0.1@{port}
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  do-not-query-localhost: no
  domain-insecure: "."
  module-config: "iterator"
  ede: yes
  nsid: "ascii_unbound"
  local-zone: "other.example." refuse
stub-zone:
  name: "fuzz.example"
  stub-addr: 127.0.0.1@{self.behind["unbound"].port}
""",
            "-d",
            "-c",
        )
        port = self._new("kresd")
        self._run(
            "kresd",
            f"""net.listen('127.0.0.1', {port})
modules.load('policy')
trust_anchors.remove('.')
policy.add(policy.suffix(policy.STUB('127.0.0.1@{self.behind["kresd"].port}'), policy.todnames({{'fuzz.example.'}})))
policy.add(policy.all(policy.DENY_MSG('not here')))
""",
            "-n",
            "-q",
            "-c",
        )
        port = self._new("dnsdist")
        self._run(
            "dnsdist",
            f"""setLocal('127.0.0.1:{port}')
newServer({{address='127.0.0.1:{self.behind["dnsdist"].port}', useClientSubnet=true, healthCheckMode='up'}})
setECSOverride(true)
addAction('other.example.', RCodeAction(DNSRCode.REFUSED))
addAction(QTypeRule(DNSQType.ANY), TCAction())
""",
            "--supervised",
            "-C",
        )
        for name, port in self.ports.items():
            self._wait(name, port)

    def stop(self) -> None:
        """
        End them.
        """
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(10)

    def _new(self, name: str) -> int:
        self.ports[name] = free_port()
        return self.ports[name]

    def _run(self, program: str, config: str, *options: str) -> None:
        path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
        if path is None:
            raise SystemExit(f"{program} is not installed")
        (self._folder / f"{program}.conf").write_text(config)
        with (self._folder / f"{program}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen(  # noqa: S603 (the programs are named above)
                    [path, *options, str(self._folder / f"{program}.conf")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                )
            )

    def _wait(self, name: str, port: int) -> None:
        query = dns.message.make_query("www.fuzz.example.", "A")
        for _ in range(60):
            try:
                if dns.query.udp(query, "127.0.0.1", 1, port).answer:
                    return
            except (OSError, dns.exception.DNSException):
                pass
            time.sleep(0.5)
        logs = "".join(path.read_text(errors="replace") for path in self._folder.glob("*.log"))
        raise SystemExit(f"{name} does not answer; the logs:\n{logs}")


def ask_all(port: int) -> None:
    """
    Ask everything of a port.
    """
    lines = [("kdig", line) for line in KDIG] + [("dig", line) for line in DIG]
    for program, line in lines:
        name, *rest = line.split()
        name = name if name.endswith(".") else "fuzz.example." if name == "@" else f"{name}.fuzz.example."
        wait = ["+timeout=2", "+retry=0"] if program == "kdig" else ["+time=2", "+tries=1"]
        server = ["@127.0.0.1", "-p", str(port)]
        command = [program, *server, *wait, name, *rest]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=30)  # noqa: S603
    command = ["kdig", "@127.0.0.1", "-p", str(port), "-y", KEY, "www.fuzz.example.", "A"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=30)  # noqa: S603


def chosen(kept: list[Exchange]) -> list[Exchange]:
    """
    Return what is worth storing: each query once, whatever its ID, or twice if its response was truncated the first
    time; and nothing that is very long.
    """
    found: dict[tuple[bytes, bool], Exchange] = {}
    for query, response in kept:
        if len(query) + len(response) <= LONGEST:
            found.setdefault((query[2:], bool(response[2] & TC)), (query, response))
    return list(found.values())[:MOST]


def main() -> None:
    """
    Capture, and write the files.
    """
    with tempfile.TemporaryDirectory() as name:
        servers = Servers(Path(name))
        try:
            servers.start()
            fronts = {name: Relay(port) for name, port in servers.ports.items()}
            for relay in fronts.values():
                ask_all(relay.port)
        finally:
            servers.stop()
        for source, relay in fronts.items():
            write(source, chosen(relay.kept))
        for source, relay in servers.behind.items():
            write(f"{source}-to-nsd", chosen(relay.kept))
    print(*(f"{source}: {len(chosen(relay.kept))} exchanges" for source, relay in fronts.items()), sep="\n")
    print(*(f"{name} to nsd: {len(chosen(relay.kept))} exchanges" for name, relay in servers.behind.items()), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
