"""
Real programs as the tests use them: started on free ports of 127.0.0.1, waited for, ended by pid.
"""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dns.message
import dns.query
import pytest

from dotproxy.testing.certificates import Issued

#: How long anything here may take to get going, on a slow and busy machine.
PATIENCE = 30.0

LONG_TXT = 4212
TXT_STRINGS = [f"{n:02d}" + "abcdefghij" * 25 for n in range(16)] + ["0123456789" * 16 + "012"]

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
long    TXT {" ".join(f'"{text}"' for text in TXT_STRINGS)}
*.wild  A 192.0.2.99
"""


def which(program: str) -> str:
    """
    Where a program is; the test is skipped if it is not there.
    """
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed (tests/integration/packages.txt lists its package)")
    return path


def free_port() -> int:
    """
    A port of 127.0.0.1 that is free for TCP and UDP.
    """
    for _ in range(50):
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            port = stream.getsockname()[1]
            with contextlib.suppress(OSError):
                datagram.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no free port")


def wait_until(true: Callable[[], object], what: object, patience: float = PATIENCE) -> None:
    """
    Look again and again until something is so.
    """
    deadline = time.monotonic() + patience
    pause = 0.01
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


class Program:
    """
    A program that runs until it is stopped; what it says goes to a file.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """
        How it is started.
        """
        raise AssertionError

    def is_ready(self) -> bool:
        """
        Whether it can be used.
        """
        raise AssertionError

    def environment(self) -> dict[str, str]:
        """
        The environment without anything that is meant for another dotproxy.
        """
        return {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}

    def start(self) -> None:
        """
        Start it, and wait until it can be used.
        """
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command(),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                cwd=self.log.parent,
            )

        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"{self.command()[0]} ended: {self.said()}")
            return self.is_ready()

        wait_until(ready, self)

    def __str__(self) -> str:
        return f"{self.command()[0]} runs: {self.said()}"

    def stop(self, how: int = signal.SIGTERM) -> int:
        """
        End it; return its exit code.
        """
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10)

    def said(self) -> str:
        """
        What it said so far.
        """
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


class Server(Program):
    """
    A real DNS-over-TLS server for lab.example, with a certificate.
    """

    program = ""

    def __init__(self, folder: Path, certificate: Issued) -> None:
        super().__init__(folder / "log")
        self.folder = folder
        self.port = free_port()
        self.executable = which(self.program)
        (folder / "zone").write_text(ZONE)
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
        with (
            socket.create_connection(("127.0.0.1", self.port), 5) as plain,
            _unverified().wrap_socket(plain, server_hostname="dot.test") as tls,
        ):
            tls.sendall(struct.pack("!H", len(query)) + query)
            return read_message(tls)


def read_message(stream: socket.socket) -> bytes:
    """
    One message off a stream.
    """
    size = struct.unpack("!H", _read_exactly(stream, 2))[0]
    return _read_exactly(stream, size)


def _read_exactly(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = stream.recv(count - len(data))
        if not piece:
            raise EOFError(f"the stream ended after {len(data)} of {count} octets")
        data += piece
    return data


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Unbound(Server):
    """
    Unbound, which logs every question, unless it is told not to.
    """

    program = "unbound"

    def __init__(self, folder: Path, certificate: Issued, *, log_queries: bool = True) -> None:
        super().__init__(folder, certificate)
        self.log_queries = "yes" if log_queries else "no"

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
    tcp-idle-timeout: 60000
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
remote-control:
    control-enable: no
auth-zone:
    name: "lab.example"
    zonefile: "{self.folder}/zone"
    for-upstream: no
    for-downstream: yes
    fallback-enabled: no
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
    dnssec-validation no;
    rrset-order {{ order none; }};
    tcp-clients 300;
}};
controls {{ }};
zone "lab.example" {{ type primary; file "zone"; }};
""")
        return [self.executable, "-g", "-c", str(config)]


class ServerWithBackend(Server):
    """
    One that asks an authoritative server beside it.
    """

    def __init__(self, folder: Path, certificate: Issued) -> None:
        super().__init__(folder, certificate)
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
addTLSLocal("127.0.0.1:{self.port}", "{self.certificate}", "{self.key}", {{ maxInFlight = 1000 }})
newServer({{ address = "127.0.0.1:{self.backend.port}", tcpOnly = true, healthCheckMode = "up" }})
""")
        return [self.executable, "--supervised", "--disable-syslog", "-C", str(config), "-l", "127.0.0.1:0"]


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


class Proxy(Program):
    """
    dotproxy, by twistd.
    """

    def __init__(
        self, log: Path, ca_file: Path, upstreams: tuple[str, ...], options: tuple[str, ...] = (), listen: str = ""
    ) -> None:
        super().__init__(log)
        self.port = free_port()
        self.host = "127.0.0.1"
        listen = listen or f"{self.host}:{self.port}"
        self.arguments = ["--listen", listen, "--ca-file", str(ca_file), *options]
        for upstream in upstreams:
            self.arguments += ["--upstream", upstream]

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [sys.executable, "-m", "dotproxy", "run", *self.arguments]

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "ready" in self.said().split()

    def ask(self, query: bytes, *, tcp: bool = False, timeout: float = 10.0) -> bytes:
        """
        Ask it, and return what it says, octet for octet.
        """
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(timeout)
            client.connect((self.host, self.port))
            if not tcp:
                client.send(query)
                return client.recv(65535)
            client.sendall(struct.pack("!H", len(query)) + query)
            return read_message(client)


def run(*command: str, timeout: float = 60.0) -> str:
    """
    Run a program to its end; return what it prints.
    """
    found = which(command[0])
    done = subprocess.run(
        [found, *command[1:]], capture_output=True, timeout=timeout, check=False, text=True, errors="replace"
    )
    return done.stdout + done.stderr
