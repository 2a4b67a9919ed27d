"""
Programs that ask a proxy over TLS: forwarders, and connections of the tests' own.
"""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dotproxy.testing.certificates import Authority, Issued
from tests.integration.programs import Program, free_port, read_message, which


class Listening:
    """
    What a proxy needs to listen for TLS: a port, and a certificate in files.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.authority = authority
        self.port = free_port()
        self.ca = folder / "clients-trust.pem"
        self.ca.write_bytes(authority.pem)
        self.certificate, self.key = folder / "served.pem", folder / "served.key"
        self.issued = authority.issue(["dot.test", "127.0.0.1"])
        self.write(self.issued)

    def write(self, issued: Issued) -> None:
        """
        Have the files hold another certificate, each replaced in one step.
        """
        for path, pem in ((self.certificate, issued.certificate_pem), (self.key, issued.key_pem)):
            fresh = path.with_suffix(".new")
            fresh.touch(0o600)
            fresh.write_bytes(pem)
            fresh.rename(path)

    def options(self, *more: str) -> tuple[str, ...]:
        """
        The proxy's options.
        """
        files = ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))
        return ("--listen-tls", f"127.0.0.1:{self.port}", *files, *more)

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """
        A client that verifies the certificate, and shows one.
        """
        context = ssl.create_default_context(cafile=str(self.ca))
        context.set_alpn_protocols(["dot"])
        if client:
            context.load_cert_chain(*client)
        return context

    @contextmanager
    def connection(self, context: ssl.SSLContext | None = None, source: str = "") -> Iterator[ssl.SSLSocket]:
        """
        A connection over TLS.
        """
        where = ("127.0.0.1", self.port)
        with (
            socket.create_connection(where, 10, (source, 0) if source else None) as plain,
            (context or self.context()).wrap_socket(plain, server_hostname="dot.test") as tls,
        ):
            yield tls

    def ask(self, query: bytes, context: ssl.SSLContext | None = None, source: str = "") -> bytes:
        """
        Ask over a connection of its own.
        """
        with self.connection(context, source) as tls:
            return ask_over(tls, query)


def ask_over(tls: socket.socket, query: bytes) -> bytes:
    """
    Ask over a connection that stands.
    """
    tls.sendall(struct.pack("!H", len(query)) + query)
    return read_message(tls)


class Forwarding(Program):
    """
    A program that forwards over TLS to a proxy, whose certificate is for dot.test, strictly.
    """

    program = ""
    suffix = "conf"

    def __init__(self, folder: Path, behind: Listening) -> None:
        super().__init__(folder / f"{self.program}.log")
        self.executable = which(self.program)
        self.port = free_port()
        self.behind = behind
        self.config = folder / f"{self.program}.{self.suffix}"
        self.config.write_text(self.text())

    def text(self) -> str:
        """
        Its configuration.
        """
        raise AssertionError

    def is_ready(self) -> bool:
        """
        It takes connections.
        """
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class UnboundOverTls(Forwarding):
    """
    Unbound.
    """

    program = "unbound"

    def text(self) -> str:
        return f"""
server:
    interface: 127.0.0.1@{self.port}
    do-not-query-localhost: no
    module-config: "iterator"
    tls-cert-bundle: "{self.behind.ca}"
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
forward-zone:
    name: "."
    forward-tls-upstream: yes
    forward-addr: 127.0.0.1@{self.behind.port}#dot.test
"""

    def command(self) -> list[str]:
        return [self.executable, "-d", "-c", str(self.config)]


class StubbyOverTls(Forwarding):
    """
    Stubby, in its strict profile.
    """

    program = "stubby"
    suffix = "yml"

    def text(self) -> str:
        return f"""
resolution_type: GETDNS_RESOLUTION_STUB
dns_transport_list:
  - GETDNS_TRANSPORT_TLS
tls_authentication: GETDNS_AUTHENTICATION_REQUIRED
tls_ca_file: "{self.behind.ca}"
tls_query_padding_blocksize: 128
idle_timeout: 10000
listen_addresses:
  - 127.0.0.1@{self.port}
upstream_recursive_servers:
  - address_data: 127.0.0.1
    tls_port: {self.behind.port}
    tls_auth_name: "dot.test"
"""

    def command(self) -> list[str]:
        return [self.executable, "-C", str(self.config)]


class DnsdistOverTls(Forwarding):
    """
    dnsdist.
    """

    program = "dnsdist"

    def text(self) -> str:
        return f"""
setACL({{"127.0.0.0/8"}})
newServer({{address="127.0.0.1:{self.behind.port}", tls="openssl", subjectName="dot.test", validateCertificates=true,
    caStore="{self.behind.ca}", healthCheckMode="up"}})
"""

    def command(self) -> list[str]:
        listen = f"127.0.0.1:{self.port}"
        return [self.executable, "--supervised", "--disable-syslog", "-C", str(self.config), "-l", listen]
