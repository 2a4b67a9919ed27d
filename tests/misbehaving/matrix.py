"""
What clients notice of an upstream that misbehaves: the table.

    python -m tests.misbehaving.matrix [--modes a,b] [--seconds 6] [--rate 300] [--write docs/misbehaviour.md]

For each way to misbehave, dotproxy is asked 300 questions a second for 6 s, by clients that wait 6 s: once with that
upstream alone, once with a healthy one after it in the list.  Everything is on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Program, Proxy, free_port
from tests.misbehaving.modes import MODES
from tests.misbehaving.steady import Counted, Steady


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
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            return Steady(client, proxy.host, proxy.port).ask(rate, seconds, bursts="closes_idle" in modes)
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
