"""
CPU and throughput of forwarding, beside stubby: one command, both in the same run.

Starts Unbound as the DNS-over-TLS upstream, and in front of it dotproxy and stubby, one after the other, in
rounds; drives each with dnsperf; prints what was lost, the rate, and the CPU time of the forwarder's process for
each query.  Everything is on 127.0.0.1, ends by itself, and needs Debian's unbound, stubby and dnsperf.

    python -m benchmarks.forward [--seconds 10] [--rounds 3] [--clients 50] [--outstanding 500]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Program, Proxy, free_port, run, which
from tests.integration.servers import Unbound

TICK = os.sysconf("SC_CLK_TCK")


class Stubby(Program):
    """
    stubby in front of the same upstream, verified by the same CA.
    """

    def __init__(self, folder: Path, ca_file: Path, upstream_port: int) -> None:
        super().__init__(folder / "stubby.log")
        self.port = free_port()
        self.config = folder / "stubby.yml"
        self.config.write_text(f"""\
resolution_type: GETDNS_RESOLUTION_STUB
dns_transport_list:
  - GETDNS_TRANSPORT_TLS
tls_authentication: GETDNS_AUTHENTICATION_REQUIRED
tls_query_padding_blocksize: 1
tls_ca_file: "{ca_file}"
edns_client_subnet_private: 0
idle_timeout: 10000
round_robin_upstreams: 0
listen_addresses:
  - 127.0.0.1@{self.port}
upstream_recursive_servers:
  - address_data: 127.0.0.1
    tls_port: {upstream_port}
    tls_auth_name: "dot.test"
""")
        self.executable = which("stubby")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        return [self.executable, "-C", str(self.config)]

    def is_ready(self) -> bool:
        """
        It answers.
        """
        return "192.0.2.1" in run("dig", "@127.0.0.1", "-p", str(self.port), "+short", "+tries=1", "www.lab.example")


@dataclass
class Measured:
    """
    One round of one forwarder.
    """

    completed: int
    lost: int
    wrong: int
    rate: float
    cpu: float


def cpu_of(program: Program) -> float:
    """
    User and system time of a process so far, in seconds.
    """
    assert program.process is not None
    fields = Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def measure(program: Program, port: int, questions: Path, given: argparse.Namespace) -> Measured:
    """
    Drive a forwarder, warmed up, for the time given.
    """
    drive = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(questions), "-c", str(given.clients)]
    run(*drive, "-q", "50", "-l", "1")
    before = cpu_of(program)
    told = run(*drive, "-q", str(given.outstanding), "-l", str(given.seconds), timeout=given.seconds + 60)
    spent = cpu_of(program) - before

    def figure(name: str) -> float:
        found = re.search(rf"{name}:\s+([0-9.]+)", told)
        return float(found[1]) if found else 0.0

    good = re.search(r"NOERROR (\d+)", told)
    completed = int(figure("Queries completed"))
    wrong = completed - (int(good[1]) if good else 0)
    return Measured(
        completed, int(figure("Queries lost")), wrong, figure("Queries per second"), spent / max(completed, 1) * 1e6
    )


def main() -> None:
    """
    Measure, and print a table.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--outstanding", type=int, default=500)
    given = parser.parse_args()
    measured: dict[str, list[Measured]] = {"dotproxy": [], "stubby": []}
    with tempfile.TemporaryDirectory(prefix="dotproxy-bench-") as name:
        folder = Path(name)
        authority = Authority()
        ca_file = folder / "ca.pem"
        ca_file.write_bytes(authority.pem)
        questions = folder / "questions"
        questions.write_text("".join(f"n{number}.wild.lab.example A\n" for number in range(10000)))
        upstream = Unbound(folder, authority.issue(["dot.test"]), log_queries=False)
        upstream.start()
        try:
            for number in range(given.rounds):
                proxy = Proxy(folder / f"proxy{number}.log", ca_file, (upstream.upstream,))
                for kind, program in (("dotproxy", proxy), ("stubby", Stubby(folder, ca_file, upstream.port))):
                    program.start()
                    try:
                        measured[kind].append(measure(program, program.port, questions, given))
                    finally:
                        program.stop()
                    print(f"round {number + 1}, {kind}: {measured[kind][-1]}", flush=True)
        finally:
            upstream.stop()
    print(f"\n{'':10}{'answered':>10}{'lost':>7}{'wrong':>7}{'queries/s':>11}{'CPU µs/query':>14}   (sums, medians)")
    medians = {}
    for kind, rounds in measured.items():
        medians[kind] = statistics.median(entry.cpu for entry in rounds)
        rate = statistics.median(entry.rate for entry in rounds)
        sums = [sum(getattr(entry, part) for entry in rounds) for part in ("completed", "lost", "wrong")]
        print(f"{kind:10}{sums[0]:>10}{sums[1]:>7}{sums[2]:>7}{rate:>11.0f}{medians[kind]:>14.1f}")
    print(f"\nCPU per query, dotproxy to stubby: {medians['dotproxy'] / medians['stubby']:.2f}")


if __name__ == "__main__":
    main()
