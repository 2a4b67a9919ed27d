"""
Upstreams that hang up, or that are none, and the forwarders that are tried in front of them.

Decides how each is started; what is asked of them is in ``situations``.  Each forwarder of each situation has upstreams
of its own, so that what an upstream received came from that forwarder.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import ADDRESS
from benchmarks.peers import Dnsdist, Dotproxy, KnotResolver, Peer, Stubby, Unbound
from benchmarks.scripted import Behaviour, Ending
from dotproxy.testing.certificates import Issued
from tests.integration.programs import Program, find, free_port

#: What a real Unbound hangs up at.
DENIED_ZONE = "ads.example"


@dataclass
class Received:
    """
    What upstreams received: ``names`` with how often each came, ``accepted`` when connections did, in seconds of
    CLOCK_MONOTONIC; None if it is not known.
    """

    names: Counter[str] = field(default_factory=Counter)
    accepted: list[float] | None = field(default_factory=list)

    def most(self, zone: str) -> int:
        """
        How often the name came that came most often, of those below a domain.
        """
        return max((count for name, count in self.names.items() if name.endswith(f".{zone}")), default=0)

    def add(self, other: Received) -> None:
        """
        Take another upstream's for the same one's.
        """
        self.names += other.names
        self.accepted = None if self.accepted is None or other.accepted is None else self.accepted + other.accepted


class Upstream(Program):
    """
    An upstream on a port of its own; it runs in a folder of its own.
    """

    def __init__(self, folder: Path, certificate: Issued) -> None:
        folder.mkdir()
        super().__init__(folder / "log")
        self.folder = folder
        self.port = free_port()
        self.certificate, self.key = certificate.write(folder, "server")

    def received(self) -> Received:
        """
        What it received so far.
        """
        raise AssertionError


class Scripted(Upstream):
    """
    The scripted upstream.
    """

    def __init__(
        self,
        folder: Path,
        certificate: Issued,
        behaviour: Behaviour = Behaviour.HANG_UP,
        *,
        delay: float = 0.05,
        ending: Ending = Ending.CLOSE_NOTIFY,
        tls: str = "1.3",
    ) -> None:
        super().__init__(folder, certificate)
        self._arguments = [behaviour.value, str(self.certificate), str(self.key), "--port", str(self.port)]
        self._arguments += ["--delay", str(delay), "--ending", ending.value, "--tls", tls]

    def command(self) -> list[str]:
        """
        In the foreground, from this checkout.
        """
        return [sys.executable, "-m", "benchmarks.scripted", *self._arguments]

    def environment(self) -> dict[str, str]:
        """
        That in which ``benchmarks`` is found.
        """
        return super().environment() | {"PYTHONPATH": str(Path(__file__).parent.parent)}

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "ready" in self.said()

    def received(self) -> Received:
        """
        By its own notes.
        """
        received = Received(accepted=[])
        for line in self.said().splitlines():
            event, *details = line.split(" ")
            if event == "query":
                received.names[details[1]] += 1
            elif event == "accepted" and received.accepted is not None:
                received.accepted.append(float(details[0]))
        return received


class StockUnbound(Upstream):
    """
    Unbound by its defaults, as an upstream without a network: ordinary names come from a redirect zone, and it hangs up
    at names below ``DENIED_ZONE``.

    dnsdist asks every upstream for a.root-servers.net, to see whether it works: that has an answer, too.
    """

    def command(self) -> list[str]:
        """
        In the foreground; queries go to the log.
        """
        (self.folder / "config").write_text(f"""
server:
    interface: 127.0.0.1@{self.port}
    tls-port: {self.port}
    tls-service-pem: "{self.certificate}"
    tls-service-key: "{self.key}"
    username: ""
    chroot: ""
    directory: "{self.folder}"
    pidfile: ""
    use-syslog: no
    log-queries: yes
    local-zone: "lab.example." redirect
    local-data: "lab.example. 86400 A {ADDRESS}"
    local-data: "a.root-servers.net. 86400 A 198.41.0.4"
    local-zone: "{DENIED_ZONE}." deny
remote-control:
    control-enable: no
""")
        return [find("unbound") or "unbound", "-d", "-c", str(self.folder / "config")]

    def is_ready(self) -> bool:
        """
        It has opened its sockets.
        """
        return "start of service" in self.said()

    def received(self) -> Received:
        """
        By its log, which has no queries that it takes for malformed, and no connections.
        """
        found = re.findall(r"info: 127\.0\.0\.1 (\S+)\. \S+ IN", self.said())
        return Received(Counter(name.lower() for name in found), None)


@dataclass(frozen=True)
class Source:
    """
    A dotproxy: a checkout, or a Python that has it installed.  Without a path, the one that belongs to this Python.
    """

    label: str = "dotproxy"
    path: Path | None = None

    @property
    def python(self) -> str:
        """
        What runs it.
        """
        return str(self.path) if self.path and not self.path.is_dir() else sys.executable

    @property
    def environment(self) -> dict[str, str]:
        """
        What makes it this one.
        """
        return {"PYTHONPATH": str(self.path)} if self.path and self.path.is_dir() else {}


class TriedDotproxy(Dotproxy):
    """
    dotproxy from some source, with as many upstreams and workers as the situation has.
    """

    def __init__(self, folder: Path, ca_file: Path, ports: Sequence[int], source: Source, workers: int) -> None:
        super().__init__(folder, ca_file, ports[0])
        self._ports = ports
        self._source = source
        self._workers = workers

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        line = [self._source.python, "-m", "dotproxy", "run", "--listen", f"127.0.0.1:{self.port}"]
        line += ["--ca-file", str(self.ca_file), "--workers", str(self._workers)]
        for port in self._ports:
            line += ["--upstream", f"tls://127.0.0.1:{port}#dot.test"]
        return line

    def environment(self) -> dict[str, str]:
        """
        That of the source.
        """
        return super().environment() | self._source.environment


@dataclass(frozen=True)
class Forwarder:
    """
    A row of the tables.
    """

    name: str
    make: Callable[[Path, Path, Sequence[int]], Peer]
    workers: int = 1
    is_dotproxy: bool = False


def dotproxies(sources: Sequence[Source]) -> list[Forwarder]:
    """
    dotproxy from each source, with one worker and with two.
    """

    def row(source: Source, workers: int) -> Forwarder:
        def make(folder: Path, ca_file: Path, ports: Sequence[int]) -> Peer:
            return TriedDotproxy(folder, ca_file, ports, source, workers)

        return Forwarder(source.label + (f", {workers} workers" if workers > 1 else ""), make, workers, True)

    return [row(source, workers) for source in sources for workers in (1, 2)]


def others() -> list[Forwarder]:
    """
    The forwarders of ``peers`` that are installed, each with one upstream.
    """

    def row(kind: type[Peer]) -> Forwarder:
        return Forwarder(kind.name, lambda folder, ca_file, ports: kind(folder, ca_file, ports[0]))

    return [row(kind) for kind in (Unbound, Dnsdist, Stubby, KnotResolver) if kind.executable() is not None]


def is_listening(port: int) -> bool:
    """
    Whether something on this machine receives UDP on 127.0.0.1 and this port.
    """
    wanted = f"0100007F:{port:04X}"
    return any(line.split()[1] == wanted for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def version_of(source: Source) -> str:
    """
    Which commit a checkout is at, for the head of the table.
    """
    if source.path is None or not source.path.is_dir():
        return source.python if source.path else "of this checkout"
    head = os.popen(f"git -C '{source.path}' log -1 --format=%h").read().strip()
    return head or str(source.path)
