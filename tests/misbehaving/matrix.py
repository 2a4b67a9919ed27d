"""
What clients notice of an upstream that misbehaves: the table.

    python -m tests.misbehaving.matrix [--modes a,b] [--seconds 6] [--rate 300] [--write docs/misbehaviour.md]

For each way to misbehave, dotproxy is asked 300 questions a second for 6 s, by clients that wait 6 s: once with that
upstream alone, once with a healthy one after it in the list.  Everything is on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dotproxy.testing.certificates import Authority
from dotproxy.testing.client import make_query
from dotproxy.wire.message import question_of
from tests.integration.programs import Program, Proxy, free_port
from tests.misbehaving.modes import MODES, address_of

PATIENCE = 6.0


@dataclass
class Counted:
    """
    What became of the questions.  Times are in seconds.
    """

    asked: int = 0
    right: int = 0
    servfail: int = 0
    wrong: int = 0
    lost: int = 0
    times: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """
        How long that share of the answered questions took at most.
        """
        if len(self.times) < 2:
            return max(self.times, default=0.0)
        return statistics.quantiles(self.times, n=1000, method="inclusive")[int(share * 1000) - 1]


class Misbehaving(Program):
    """
    The server of one mode.
    """

    def __init__(self, folder: Path, mode: str, certificate: Path, key: Path, seed: int) -> None:
        super().__init__(Path(tempfile.mkdtemp(dir=folder)) / f"{mode}.log")
        self.mode, self.certificate, self.key, self.seed = mode, certificate, key, seed
        self.port = free_port()

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        files = [str(self.certificate), str(self.key)]
        return [
            *(sys.executable, "-m", "tests.misbehaving.server", self.mode, *files),
            *("--port", str(self.port), "--seed", str(self.seed)),
        ]

    def is_ready(self) -> bool:
        """
        It says so.
        """
        return "ready" in self.said()

    @property
    def upstream(self) -> str:
        """
        How it is named as an upstream.
        """
        return f"tls://127.0.0.1:{self.port}#dot.test"


def ask_all(host: str, port: int, rate: float, seconds: float, *, bursts: bool = False) -> Counted:
    """
    Ask at this rate for so long, over UDP; wait for what is still out.
    """
    counted = Counted()
    total = int(rate * seconds)
    wanted: dict[int, tuple[float, bytes, bytes]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, selectors.DefaultSelector() as selector:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.connect((host, port))
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
        began = time.monotonic()
        while counted.asked < total or wanted:
            now = time.monotonic()
            gap = (now - began) % 1.0 > 0.5 if bursts else False
            while counted.asked < total and not gap and counted.asked <= (now - began) * rate:
                query = make_query(f"n{counted.asked}.{port}.misbehaving.example.", 1, ident=counted.asked % 65536)
                client.send(query)
                question = query[12 : question_of(query)]
                wanted[counted.asked % 65536] = (now, question, address_of(question))
                counted.asked += 1
            for ident in [ident for ident, (at, _, _) in wanted.items() if now - at > PATIENCE]:
                del wanted[ident]
                counted.lost += 1
            if not selector.select(0.002):
                continue
            while True:
                try:
                    reply = client.recv(65535)
                except BlockingIOError:
                    break
                at, question, address = wanted.pop(reply[0] << 8 | reply[1])
                counted.times.append(time.monotonic() - at)
                rcode = reply[3] & 15
                if rcode == 0 and reply[12 : 12 + len(question)] == question and address in reply:
                    counted.right += 1
                elif rcode:
                    counted.servfail += 1
                else:
                    counted.wrong += 1
    return counted


def measure(
    folder: Path,
    start: Callable[[str], Misbehaving],
    ca_file: Path,
    modes: Sequence[str],
    rate: float,
    seconds: float,
    options: tuple[str, ...] = (),
) -> Counted:
    """
    Measure dotproxy with an upstream of each mode, in that order.
    """
    upstreams = [start(mode) for mode in modes]
    log = Path(tempfile.mkdtemp(dir=folder)) / "proxy.log"
    proxy = Proxy(log, ca_file, tuple(upstream.upstream for upstream in upstreams), options)
    proxy.start()
    try:
        return ask_all(proxy.host, proxy.port, rate, seconds, bursts="closes_idle" in modes)
    finally:
        proxy.stop()
        for upstream in upstreams:
            upstream.stop()


def table(names: Sequence[str], rate: float, seconds: float, seed: int, options: tuple[str, ...]) -> str:
    """
    Measure these modes, and return the table; each row is printed when it is known.
    """
    head = "| the upstream | | asked | right | errors | wrong | lost | p50 ms | p99 ms | max ms |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    print(head)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority()
        ca_file = folder / "ca.pem"
        ca_file.write_bytes(authority.pem)
        certificate, key = authority.issue(["dot.test"]).write(folder, "server")

        def start(mode: str) -> Misbehaving:
            server = Misbehaving(folder, mode, certificate, key, seed)
            server.start()
            return server

        for mode in names:
            for beside in (False, True):
                modes = [mode, "healthy"] if beside else [mode]
                counted = measure(folder, start, ca_file, modes, rate, seconds, options)
                what = f"`{mode}`: {(MODES[mode].__doc__ or '').strip().rstrip('.')}" if not beside else ""
                line = (
                    f"| {what} | {'beside' if beside else 'alone'} | {counted.asked} | {counted.right}"
                    f" | {counted.servfail} | {counted.wrong} | {counted.lost}"
                    f" | {counted.percentile(0.5) * 1000:.1f} | {counted.percentile(0.99) * 1000:.0f}"
                    f" | {max(counted.times, default=0) * 1000:.0f} |"
                )
                print(line, flush=True)
                lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """
    Print the table; write it, if that is wanted.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], help="an option for dotproxy, as --policy=random")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    made = table(given.modes.split(","), given.rate, given.seconds, given.seed, tuple(given.option))
    if given.write:
        text = given.write.read_text("utf-8")
        begin, end = text.index("| the upstream |"), text.index("\n\n", text.index("| the upstream |"))
        given.write.write_text(text[:begin] + made.rstrip() + text[end:], "utf-8")


if __name__ == "__main__":
    main()
