"""
Upstreams that hang up at some queries, or that cannot be used at all, and what each of them received.

Decides how each is started.  Each forwarder of each situation has upstreams of its own, so that what an upstream
received came from that forwarder.
"""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import ADDRESS
from benchmarks.scripted import Behaviour, Ending
from benchmarks.syn_counter import Closed
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


#: From a folder and a certificate that forwarders trust.
MakeUpstream = Callable[[Path, Issued], Upstream]


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
        hang_up_after: float = 0.0,
    ) -> None:
        super().__init__(folder, certificate)
        self._arguments = [behaviour.value, str(self.certificate), str(self.key), "--port", str(self.port)]
        self._arguments += ["--delay", str(delay), "--ending", ending.value, "--tls", tls]
        self._arguments += ["--hang-up-after", str(hang_up_after)]

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


class Refusing(Upstream):
    """
    A port that refuses connections.  What arrives is counted by the kernel's copies of the packets, for which root is
    needed.
    """

    def __init__(self, folder: Path, certificate: Issued) -> None:
        super().__init__(folder, certificate)
        self._closed: Closed | None = Closed()
        self.port = self._closed.port
        self._received = Received()

    def start(self) -> None:
        """
        There is nothing to start.
        """

    def stop(self, how: int = signal.SIGTERM) -> int:
        """
        Give the port back.
        """
        if self._closed is not None:
            self._received = self.received()
            self._closed.close()
            self._closed = None
        return 0

    def received(self) -> Received:
        """
        By the packets with SYN.
        """
        return Received(accepted=self._closed.dials()) if self._closed is not None else self._received
