"""
Those who forward: dotproxy, and what else does the same, all to one upstream that each of them verifies.

Decides how each is set up: by its own defaults where those are meant for this, but with one worker, room for 100,000
answers, as many TCP clients as ask, many questions at a time over one connection, no limits by client, and no DNSSEC
validation (dotproxy has none).  Where a default is left, the peer's class says why.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.load import is_right
from dotproxy.testing.client import make_query
from tests.integration.programs import Late, Program, find, free_port, run


class Peer(Program):
    """
    A forwarder on a free port of 127.0.0.1, for UDP and TCP.
    """

    name = ""
    program = ""
    has_cache = True
    version_option = "--version"
    #: What its configuration file has to be called.
    config_name = "config"

    def __init__(self, folder: Path, ca_file: Path, upstream_port: int) -> None:
        folder.mkdir()
        super().__init__(folder / "log")
        self.folder = folder
        self.ca_file = ca_file
        self.upstream_port = upstream_port
        self.port = free_port()

    @classmethod
    def executable(cls) -> str | None:
        """
        Where it is, if it is installed.
        """
        return find(cls.program)

    @classmethod
    def version(cls) -> str:
        """
        Its number, as it prints it.
        """
        found = re.search(r"\d+(\.\d+)+", run(cls.program, cls.version_option))
        return found[0] if found else "of unknown version"

    def configuration(self) -> str:
        """
        The text of its configuration file.
        """
        raise AssertionError

    def write(self) -> str:
        """
        Write its configuration file; return where.
        """
        path = self.folder / self.config_name
        path.write_text(self.configuration())
        return str(path)

    def is_ready(self) -> bool:
        """
        It answers, and what it answers is what the upstream says.
        """
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(0.5)
            client.connect(("127.0.0.1", self.port))
            try:
                client.send(make_query("ready.lab.example", 1))
                return is_right(client.recv(4096))
            except OSError:
                return False

    def first_answer(self, patience: float = 20.0, pause: float = 0.005) -> float:
        """
        Start it, and ask every 5 ms; return how many seconds the first good answer took from when it was executed.
        """
        query = make_query("first.lab.example", 1)
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(pause)
            client.connect(("127.0.0.1", self.port))
            begun = time.perf_counter()
            self.launch()
            while (took := time.perf_counter() - begun) < patience:
                sent = time.perf_counter()
                try:
                    client.send(query)
                    if is_right(client.recv(4096)):
                        return time.perf_counter() - begun
                except OSError:  # nobody listens, or nobody answers, yet
                    time.sleep(max(0.0, sent + pause - time.perf_counter()))
        raise Late(f"{self.name} did not answer within {took:.0f} s: {self.said()}")


class Dotproxy(Peer):
    """
    By its defaults, with metrics as an operator has them; compiled, if this Python has it so.
    """

    name = "dotproxy"

    @classmethod
    def executable(cls) -> str | None:
        """
        It is being developed here.
        """
        return sys.executable

    @classmethod
    def version(cls) -> str:
        """
        That of what is installed here.
        """
        return version("dotproxy")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        line = [sys.executable, "-m", "dotproxy", "run", "--listen", f"127.0.0.1:{self.port}"]
        line += ["--ca-file", str(self.ca_file), "--upstream", f"tls://127.0.0.1:{self.upstream_port}#dot.test"]
        return [*line, "--admin-listen", f"127.0.0.1:{free_port()}"]


class Interpreted(Dotproxy):
    """
    The same, as it is written: nothing of it is compiled.
    """

    name = "interpreted"

    def environment(self) -> dict[str, str]:
        """
        That in which the sources come first.
        """
        return super().environment() | {"PYTHONPATH": str(Path(__file__).parent.parent)}


class Unbound(Peer):
    """
    Its caches of 4 MB each would not hold 100,000 answers, and it takes ten TCP clients by default.
    """

    name = "Unbound"
    program = "unbound"
    version_option = "-V"

    def configuration(self) -> str:
        """
        Unbound's.
        """
        return f"""
server:
    interface: 127.0.0.1@{self.port}
    num-threads: 1
    incoming-num-tcp: 100
    msg-cache-size: 64m
    rrset-cache-size: 128m
    module-config: "iterator"
    do-not-query-localhost: no
    tls-cert-bundle: "{self.ca_file}"
    username: ""
    chroot: ""
    directory: "{self.folder}"
    pidfile: ""
    use-syslog: no
remote-control:
    control-enable: no
forward-zone:
    name: "."
    forward-tls-upstream: yes
    forward-addr: 127.0.0.1@{self.upstream_port}#dot.test
"""

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [find(self.program) or "", "-d", "-c", self.write()]


class Dnsdist(Peer):
    """
    By default it asks one question at a time over a connection, answers TCP clients in order, keeps nothing, and has
    ten workers for TCP, which in this version do DNS over TLS, too.
    """

    name = "dnsdist"
    program = "dnsdist"

    def configuration(self) -> str:
        """
        dnsdist's.
        """
        return f"""
setLocal("127.0.0.1:{self.port}", {{ maxInFlight = 1000 }})
setACL({{"127.0.0.0/8"}})
setSecurityPollSuffix("")
setMaxTCPClientThreads(1)
newServer({{
  address = "127.0.0.1:{self.upstream_port}", tls = "openssl", subjectName = "dot.test",
  caStore = "{self.ca_file}", validateCertificates = true, maxInFlight = 1000,
}}):setUp()
getPool(""):setCache(newPacketCache(100000))
"""

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [find(self.program) or "", "--supervised", "--disable-syslog", "-C", self.write()]


class KnotResolver(Peer):
    """
    One process, with the cache of 100 MB that is its default.  What it would ask the root by itself is turned off.  By
    default it fails what is more than a hundred questions at a time, over a connection to an upstream, too.
    """

    name = "Knot Resolver"
    program = "kresd"

    def configuration(self) -> str:
        """
        Knot Resolver's.
        """
        return f"""
net.listen("127.0.0.1", {self.port}, {{ kind = "dns" }})
net.tcp_pipeline(1000)
cache.open(100 * MB, "lmdb://{self.folder}/cache")
trust_anchors.remove(".")
modules.unload("ta_signal_query")
modules.unload("priming")
modules.unload("detect_time_skew")
policy.add(policy.all(policy.TLS_FORWARD({{
  {{ "127.0.0.1@{self.upstream_port}", hostname = "dot.test", ca_file = "{self.ca_file}" }}
}})))
"""

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [find(self.program) or "", "-n", "-c", self.write(), str(self.folder)]


class Stubby(Peer):
    """
    It has no cache: whatever it is asked, it asks.
    """

    name = "stubby"
    program = "stubby"
    has_cache = False
    version_option = "-V"
    config_name = "stubby.yml"

    def configuration(self) -> str:
        """
        stubby's.
        """
        return f"""\
resolution_type: GETDNS_RESOLUTION_STUB
dns_transport_list:
  - GETDNS_TRANSPORT_TLS
tls_authentication: GETDNS_AUTHENTICATION_REQUIRED
tls_query_padding_blocksize: 1
tls_ca_file: "{self.ca_file}"
edns_client_subnet_private: 0
idle_timeout: 10000
round_robin_upstreams: 0
listen_addresses:
  - 127.0.0.1@{self.port}
upstream_recursive_servers:
  - address_data: 127.0.0.1
    tls_port: {self.upstream_port}
    tls_auth_name: "dot.test"
"""

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [find(self.program) or "", "-C", self.write()]


PEERS: tuple[type[Peer], ...] = (Dotproxy, Interpreted, Unbound, Dnsdist, KnotResolver, Stubby)

#: dotproxy is compared with the cheapest of these.
RIVALS = (Unbound.name, Dnsdist.name, KnotResolver.name)
