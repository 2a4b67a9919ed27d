"""
docs/probe.md: what `dotproxy probe` says of several servers, good and bad.

    python -m tests.integration.probed --write docs/probe.md
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Program, free_port, which
from tests.integration.servers import Bind, Dnsdist, KnotResolver, Nsd, Unbound

PAGE = """\
# Output of `dotproxy probe`

    dotproxy probe [SPEC…] [--ca-file PEM] [--name NAME] [--idle SECONDS] [--json]

examines upstreams (by default those of the configuration) and prints for each: the times of TCP, TLS, a resumed
handshake, a first and a later query; TLS version, cipher and ALPN; the certificate, its expiry, and the pin of its key
in the form of a SPEC; whether it is verified, and if not why; whether it responds out of order, pads, returns client
subnet, sends DNSSEC data; the idle timeout it announces, and with `--idle` the measured one. No query is sent to a
server that is not verified. The exit code is 0 if at least one address of every upstream is verified and responds with
NOERROR (or NXDOMAIN for `--name`), 1 if not, 2 for a usage error.

This page is made by `python -m tests.integration.probed --write docs/probe.md`; times are those of one machine's
loopback.
"""


class OldTls(Program):
    """
    A server that speaks TLS 1.1 and nothing else.
    """

    def __init__(self, folder: Path, certificate: Path, key: Path) -> None:
        super().__init__(folder / "old.log")
        self.port = free_port()
        self.files = certificate, key

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        certificate, key = map(str, self.files)
        given = ["-accept", str(self.port), "-cert", certificate, "-key", key, "-tls1_1", "-quiet"]
        return [which("openssl"), "s_server", *given, "-cipher", "ALL:@SECLEVEL=0"]

    def is_ready(self) -> bool:
        """
        It accepts.
        """
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


def probed(ca_file: Path, port: int, *options: str) -> tuple[int, str]:
    """
    Probe what listens there.
    """
    command = [sys.executable, "-m", "dotproxy", "probe", f"tls://127.0.0.1:{port}#dot.test", "--ca-file", str(ca_file)]
    done = subprocess.run(
        [*command, "--name", "lab.example", *options], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@contextmanager
def silent() -> Iterator[int]:
    """
    Somebody who accepts connections and says nothing.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


def everything(folder: Path, probe: Callable[[Path, int], tuple[int, str]] = probed) -> Iterator[tuple[str, int, str]]:
    """
    Yield each server's description, the exit code, and what was said of it.
    """
    authority = Authority()
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(authority.pem)
    day = timedelta(days=1)
    good = authority.issue(["dot.test"])
    cases = [
        *((kind.__name__, kind, good) for kind in (Unbound, Nsd, Bind, KnotResolver, Dnsdist)),
        ("expired", Unbound, authority.issue(["dot.test"], starts=-2 * day, ends=-day)),
        ("for another name", Unbound, authority.issue(["other.test"])),
        ("self-signed", Unbound, authority.issue(["dot.test"], self_signed=True)),
    ]
    for label, kind, certificate in cases:
        home = folder / re.sub(r"\W", "", label)
        home.mkdir()
        server = kind(home, certificate)
        server.start()
        try:
            yield label, *probe(ca_file, server.port)
        finally:
            server.stop()
    old = OldTls(folder, *good.write(folder, "old"))
    old.start()
    try:
        yield "TLS 1.1 only", *probe(ca_file, old.port)
    finally:
        old.stop()
    with silent() as port:
        yield "silent", *probe(ca_file, port)


def main() -> None:
    """
    Print the page, or write it.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    page = PAGE
    with tempfile.TemporaryDirectory() as name:
        for label, code, said in everything(Path(name)):
            page += f"\n## {label}\n\n```\n{said.rstrip()}\n```\n\nExit code {code}.\n"
    if given.write:
        given.write.write_text(page, "utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main()
