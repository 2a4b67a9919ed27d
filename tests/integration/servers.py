"""
Real DNS-over-TLS servers for the zone lab.example.
"""

import contextlib
import signal
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from dotproxy.testing.certificates import Issued
from tests.integration.programs import PATIENCE, Late, Program, free_port, read_message, which

LONG_TXT = 4212
TXT_STRINGS = [f"{n:02d}" + "abcdefghij" * 25 for n in range(16)] + ["0123456789" * 16 + "012"]

#: 95 records of 630 octets: about 61,000 in all; BIND takes 100 records of a kind and no more.
HUGE_RECORDS = [(f"{n:02d}" + "h" * 253, "u" * 255, "g" * 117) for n in range(95)]

TSIG_KEY, TSIG_SECRET = "lab-key", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"

ZONE = f"""\
$ORIGIN lab.example.
$TTL 300
@       SOA ns.lab.example. admin.lab.example. 1 3600 600 86400 60
@       NS ns
ns      A 127.0.0.1
www     A 192.0.2.1
www     AAAA 2001:db8::1
alias   CNAME www
mx      MX 10 mail.lab.example.
unk     TYPE65280 \\# 5 0102030405
a\\000\\255\\.b A 192.0.2.3
long    TXT {" ".join(f'"{text}"' for text in TXT_STRINGS)}
{chr(10).join(f"huge TXT {' '.join(record)}" for record in HUGE_RECORDS)}
*.wild  A 192.0.2.99
"""


class Server(Program):
    """
    A real DNS-over-TLS server for lab.example, with a certificate.

    ``idle_timeout`` is when it closes connections that nobody uses, in seconds; ``zone`` its zone file's text.
    """

    program = ""

    def __init__(self, folder: Path, certificate: Issued, *, idle_timeout: int = 60, zone: str = ZONE) -> None:
        super().__init__(folder / "log")
        self.folder = folder
        self.idle_timeout = idle_timeout
        self.port = free_port()
        self.executable = which(self.program)
        (folder / "zone").write_text(zone)
        folder.chmod(0o755)
        self.use(certificate)

    def use(self, certificate: Issued) -> None:
        """
        Have another certificate from the next start on.
        """
        self.certificate, self.key = certificate.write(self.folder, "server")
        self.key.chmod(0o644)  # some of them give root up before they read it

    @property
    def upstream(self) -> str:
        """
        How dotproxy is told of it.
        """
        return f"tls://127.0.0.1:{self.port}#dot.test"

    def write(self, text: str) -> Path:
        """
        Its configuration.
        """
        path = self.folder / "config"
        path.write_text(text)
        return path

    def start(self) -> None:
        """
        Start it, and wait until it can be used; one that hangs before that is started once more.
        """
        try:
            self.start_within(PATIENCE / 2)
        except Late:
            self.stop(signal.SIGKILL)
            self.start_within(PATIENCE)

    def is_ready(self) -> bool:
        """
        It shakes hands; it is not asked, so that what it logs of questions is the proxy's.
        """
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 1) as plain,
                _unverified().wrap_socket(plain, server_hostname="dot.test"),
            ):
                return True
        except OSError:
            return False

    def ask(self, query: bytes) -> bytes:
        """
        Ask it directly, over TLS.
        """
        with self.asked_directly() as ask:
            return ask(query)

    @contextlib.contextmanager
    def asked_directly(self) -> Iterator[Callable[[bytes], bytes]]:
        """
        Something that asks it directly, all over one TLS connection.
        """
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            _unverified().wrap_socket(plain, server_hostname="dot.test") as tls,
        ):

            def ask(query: bytes) -> bytes:
                tls.sendall(struct.pack("!H", len(query)) + query)
                return read_message(tls)

            yield ask


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Unbound(Server):
    """
    Unbound, which logs every question, unless it is told not to; it hangs up at names in ``denied``, and looks names in
    silent.example up at a UDP port, if there is one.
    """

    program = "unbound"

    def __init__(
        self,
        folder: Path,
        certificate: Issued,
        *,
        log_queries: bool = True,
        idle_timeout: int = 60,
        denied: str = "",
        silent_port: int = 0,
    ) -> None:
        super().__init__(folder, certificate, idle_timeout=idle_timeout)
        self.log_queries = "yes" if log_queries else "no"
        self.local_zone = f'local-zone: "{denied}" deny' if denied else ""
        self.forward_zone = f'forward-zone:\n    name: "silent.example"\n    forward-addr: 127.0.0.1@{silent_port}'
        self.forward_zone *= bool(silent_port)

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        config = self.write(f"""
server:
    interface: 127.0.0.1@{self.port}
    tls-port: {self.port}
    tls-service-pem: "{self.certificate}"
    tls-service-key: "{self.key}"
    do-udp: no
    incoming-num-tcp: 300
    tcp-idle-timeout: {self.idle_timeout * 1000}
    num-threads: 1
    username: ""
    chroot: ""
    directory: "{self.folder}"
    pidfile: ""
    use-syslog: no
    log-queries: {self.log_queries}
    do-not-query-localhost: no
    module-config: "iterator"
    rrset-roundrobin: no
    minimal-responses: no
    {self.local_zone}
remote-control:
    control-enable: no
auth-zone:
    name: "lab.example"
    zonefile: "{self.folder}/zone"
    for-upstream: no
    for-downstream: yes
    fallback-enabled: no
{self.forward_zone}
""")
        return [self.executable, "-d", "-c", str(config)]

    @property
    def questions(self) -> list[str]:
        """
        What it was asked.
        """
        return [line for line in self.said().splitlines() if "info: 127.0.0.1 " in line]


class Nsd(Server):
    """
    NSD.
    """

    program = "nsd"

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        config = self.write(f"""
server:
    ip-address: 127.0.0.1@{self.port}
    port: {self.port}
    tls-port: {self.port}
    tls-service-pem: "{self.certificate}"
    tls-service-key: "{self.key}"
    server-count: 1
    tcp-count: 300
    tcp-timeout: {self.idle_timeout}
    username: ""
    chroot: ""
    zonesdir: "{self.folder}"
    zonelistfile: "{self.folder}/zones"
    xfrdfile: "{self.folder}/xfrd"
    xfrdir: "{self.folder}"
    database: ""
    pidfile: "{self.folder}/pid"
    rrl-ratelimit: 0
    round-robin: no
remote-control:
    control-enable: no
zone:
    name: lab.example
    zonefile: zone
    provide-xfr: 0.0.0.0/0 NOKEY
""")
        return [self.executable, "-d", "-c", str(config)]


class Bind(Server):
    """
    BIND's named.
    """

    program = "named"

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        config = self.write(f"""
tls lab {{ cert-file "{self.certificate}"; key-file "{self.key}"; }};
options {{
    directory "{self.folder}";
    pid-file none;
    session-keyfile none;
    listen-on port {self.port} tls lab {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    server-id "lab server";
    dnssec-validation no;
    rrset-order {{ order none; }};
    tcp-clients 300;
    tcp-idle-timeout {self.idle_timeout * 10};
    tcp-keepalive-timeout {self.idle_timeout * 10};
    check-names primary ignore;
}};
controls {{ }};
key "{TSIG_KEY}" {{ algorithm hmac-sha256; secret "{TSIG_SECRET}"; }};
zone "lab.example" {{ type primary; file "zone"; ixfr-from-differences yes; }};
""")
        return [self.executable, "-g", "-c", str(config)]


class ServerWithBackend(Server):
    """
    One that asks an authoritative server beside it.
    """

    def __init__(self, folder: Path, certificate: Issued, *, idle_timeout: int = 60) -> None:
        super().__init__(folder, certificate, idle_timeout=idle_timeout)
        self.backend = Backend(folder)

    def start(self) -> None:
        """
        Both.
        """
        self.backend.start()
        super().start()

    def stop(self, how: int = signal.SIGTERM) -> int:
        """
        Both.
        """
        self.backend.stop()
        return super().stop(how)


class KnotResolver(ServerWithBackend):
    """
    Knot Resolver.
    """

    program = "kresd"

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        config = self.write(f"""
net.listen("127.0.0.1", {self.port}, {{ kind = "tls" }})
net.tls("{self.certificate}", "{self.key}")
cache.open(10 * MB, "lmdb://{self.folder}/cache")
trust_anchors.remove(".")
modules.unload("ta_signal_query")
policy.add(policy.all(policy.STUB("127.0.0.1@{self.backend.port}")))
""")
        return [self.executable, "-n", "-c", str(config), str(self.folder)]


class Dnsdist(ServerWithBackend):
    """
    dnsdist.
    """

    program = "dnsdist"

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        config = self.write(f"""
setACL({{"127.0.0.0/8"}})
setTCPRecvTimeout({self.idle_timeout})
addTLSLocal("127.0.0.1:{self.port}", "{self.certificate}", "{self.key}", {{ maxInFlight = 1000 }})
newServer({{ address = "127.0.0.1:{self.backend.port}", tcpOnly = true, healthCheckMode = "up" }})
""")
        return [
            self.executable,
            "--supervised",
            "--disable-syslog",
            "-C",
            str(config),
            "-l",
            f"127.0.0.1:{free_port()}",
        ]


class Backend(Program):
    """
    An authoritative server for plain DNS, for those servers here that are none themselves.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "backend.log")
        self.folder = folder
        self.port = free_port()
        self.executable = which("nsd")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        path = self.folder / "backend.conf"
        path.write_text(f"""
server:
    ip-address: 127.0.0.1@{self.port}
    port: {self.port}
    server-count: 1
    tcp-count: 300
    username: ""
    chroot: ""
    zonesdir: "{self.folder}"
    zonelistfile: "{self.folder}/backend.zones"
    xfrdfile: "{self.folder}/backend.xfrd"
    xfrdir: "{self.folder}"
    database: ""
    pidfile: "{self.folder}/backend.pid"
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: lab.example
    zonefile: zone
    provide-xfr: 0.0.0.0/0 NOKEY
""")
        return [self.executable, "-d", "-c", str(path)]

    def is_ready(self) -> bool:
        """
        It answers.
        """
        try:
            query = dns.message.make_query("lab.example.", "SOA")
            return bool(dns.query.tcp(query, "127.0.0.1", 1, self.port).answer)
        except (OSError, EOFError, dns.exception.DNSException):
            return False
