"""
dnsdist in front, which tells its clients' addresses by the PROXY protocol: over UDP, TCP and TLS.
"""

import re
import socket
import struct
import sys
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Program, Proxy, free_port, read_message, run, wait_until, which
from tests.integration.servers import Nsd
from tests.integration.tls_clients import Listening, ask_over
from tests.wire.test_proxy_header import header

WWW = dns.message.make_query("www.lab.example", "A")
SERVED, REFUSED = "127.0.0.2", "127.0.0.3"

#: How dnsdist asks: over UDP, over TCP alone, or over TLS.
WAYS = ["udp", "tcp", "tls"]


class Balancer(Program):
    """
    dnsdist, with a proxy behind it; its own health checks are LOCAL.
    """

    def __init__(self, folder: Path, server: str) -> None:
        super().__init__(folder / "dnsdist.log")
        self.executable = which("dnsdist")
        self.port = free_port()
        self.config = folder / "dnsdist.conf"
        self.config.write_text(f"""
setACL({{"127.0.0.0/8"}})
newServer({{{server}, useProxyProtocol=true, checkName="www.lab.example.", checkInterval=1, mustResolve=true}})
""")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        listen = f"127.0.0.1:{self.port}"
        return [self.executable, "--supervised", "--disable-syslog", "-C", str(self.config), "-l", listen]

    def is_ready(self) -> bool:
        """
        It says that the server behind it works.
        """
        return "Marking downstream" in self.said() and "as 'up'" in self.said()

    def ask(self, source: str, *, tcp: bool = False) -> int:
        """
        Ask as a client with this address; return the rcode.
        """
        ask = dns.query.tcp if tcp else dns.query.udp
        return ask(WWW, "127.0.0.1", 10, self.port, source=source).rcode()


@pytest.fixture
def listening(tmp_path: Path, authority: Authority) -> Listening:
    """
    A port and a certificate.
    """
    return Listening(tmp_path, authority)


def backend(way: str, program: Proxy, listening: Listening) -> str:
    """
    How dnsdist is told of a proxy.
    """
    if way == "tls":
        tls = f'tls="openssl", subjectName="dot.test", validateCertificates=true, caStore="{listening.ca}"'
        return f'address="127.0.0.1:{listening.port}", {tls}'
    return f'address="127.0.0.1:{program.port}"' + (", tcpOnly=true" if way == "tcp" else "")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_clients_behind_dnsdist_are_known_by_address(way, workers, listening, serve, proxy, tmp_path):
    """
    Clients behind dnsdist are served or refused by their own addresses, over UDP and TCP, and the query log has these;
    dnsdist's own health checks are its own.
    """
    allowed = ("--allow-from", "127.0.0.1/32", "--allow-from", f"{SERVED}/32")
    options = (*allowed, "--proxy-protocol-from", "127.0.0.1/32", "--query-log", "clear", "--workers", str(workers))
    program = proxy(serve(Nsd).upstream, options=listening.options(*options), cache=True)
    balancer = Balancer(tmp_path, backend(way, program, listening))
    balancer.start()
    try:
        for tcp in (False, True):
            for _ in range(10):
                assert balancer.ask(SERVED, tcp=tcp) == dns.rcode.NOERROR
                assert balancer.ask(REFUSED, tcp=tcp) == dns.rcode.REFUSED
    finally:
        balancer.stop()

    def logged() -> list[tuple[str, str, str]]:
        return re.findall(r"(udp|tcp|tls) (127\.0\.0\.\d) www\.lab\.example\. A (NOERROR|REFUSED)", program.said())

    def times(wanted: str) -> int:
        return sum(client == wanted for _, client, _ in logged())

    wait_until(lambda: times(SERVED) >= 20 and times(REFUSED) >= 20, "all are logged", 10)
    assert (times(SERVED), times(REFUSED)) == (20, 20)
    assert {(client, rcode) for _, client, rcode in logged()} == {
        ("127.0.0.1", "NOERROR"),
        (SERVED, "NOERROR"),
        (REFUSED, "REFUSED"),
    }
    expected = {"udp": {"udp", "tcp"}, "tcp": {"tcp"}, "tls": {"tls"}}[way]
    assert {transport for transport, client, _ in logged() if client != "127.0.0.1"} == expected


def test_headers_count_from_balancers_only(listening, serve, proxy, tmp_path):
    """
    A balancer's datagram or connection without a header gets no answer, and is counted; a header of somebody who is no
    balancer is no query, and he cannot claim another's address.
    """
    port = free_port()
    options = ("--allow-from", f"{SERVED}/32", "--proxy-protocol-from", "127.0.0.9/32")
    options += ("--admin-listen", f"127.0.0.1:{port}")
    program = proxy(serve(Nsd).upstream, options=listening.options(*options))
    query = WWW.to_wire()
    claimed = header(SERVED) + query
    assert dns.message.from_wire(program.ask(claimed, source="127.0.0.9")).rcode() == dns.rcode.NOERROR
    assert dns.message.from_wire(program.ask(query, source=SERVED)).rcode() == dns.rcode.NOERROR
    assert dns.message.from_wire(program.ask(query, source=REFUSED)).rcode() == dns.rcode.REFUSED
    for source, octets in ((REFUSED, claimed), ("127.0.0.9", query)):
        with pytest.raises(TimeoutError):
            program.ask(octets, source=source, timeout=1)
    framed = struct.pack("!H", len(query)) + query
    for source, octets in (("127.0.0.9", framed), (REFUSED, header(SERVED) + framed)):
        with socket.create_connection((program.host, program.port), 10, (source, 0)) as client:
            client.sendall(octets)
            client.settimeout(3)
            with pytest.raises((EOFError, OSError)):
                read_message(client)
    with socket.create_connection((program.host, program.port), 10, ("127.0.0.9", 0)) as client:
        client.sendall(header(SERVED) + framed)
        assert dns.message.from_wire(read_message(client)).rcode() == dns.rcode.NOERROR
    metrics = run(
        sys.executable,
        "-c",
        f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics').read().decode())",
    )
    assert 'dotproxy_proxy_protocol_errors_total{over="udp"} 1.0' in metrics, metrics
    assert 'dotproxy_proxy_protocol_errors_total{over="tcp"} 1.0' in metrics


def test_header_before_tls_is_read(listening, serve, proxy):
    """
    A balancer that passes TLS through puts the header before the handshake; without one the handshake is not answered.
    """
    options = ("--allow-from", f"{SERVED}/32", "--proxy-protocol-from", "127.0.0.9/32")
    proxy(serve(Nsd).upstream, options=listening.options(*options))
    for source, rcode in ((SERVED, dns.rcode.NOERROR), (REFUSED, dns.rcode.REFUSED)):
        with socket.create_connection(("127.0.0.1", listening.port), 10, ("127.0.0.9", 0)) as plain:
            plain.sendall(header(source))
            with listening.context().wrap_socket(plain, server_hostname="dot.test") as tls:
                assert dns.message.from_wire(ask_over(tls, WWW.to_wire())).rcode() == rcode
    with pytest.raises((EOFError, OSError)), listening.connection(source="127.0.0.9") as tls:
        ask_over(tls, WWW.to_wire())
    with listening.connection(source=SERVED) as tls:
        assert dns.message.from_wire(ask_over(tls, WWW.to_wire())).rcode() == dns.rcode.NOERROR
