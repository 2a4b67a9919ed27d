"""
The CA is replaced under load, and other files that TLS is built from: what is new counts, and what is gone does not.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Proxy, connections_to, free_port, wait_until
from tests.misbehaving.matrix import Misbehaving
from tests.misbehaving.steady import Counted, Steady

#: How dotproxy learns of the new contents, how many workers it has, and the server's mode: TLS 1.3, or 1.2.
CASES = [
    *[("reload", 1, "tls_1_2"), ("disk", 2, "healthy")],
    *(
        pytest.param(*case, marks=pytest.mark.soak)
        for case in (
            *[("reload", 1, "healthy"), ("reload", 2, "healthy"), ("reload", 2, "tls_1_2")],
            *[("SIGHUP", 1, "healthy"), ("disk", 1, "tls_1_2")],
        )
    ),
]


class Laboratory:
    """
    Two CAs, servers certified by either, and dotproxy with a CA file that changes.
    """

    def __init__(self, folder: Path, proxy: Callable[..., Proxy], mode: str, workers: int) -> None:
        self.folder, self.mode, self.workers = folder, mode, workers
        self.old, self.new = Authority("old"), Authority("new")
        self.ca_file = folder / "believed.pem"
        self.servers: list[Misbehaving] = []
        self._proxy = proxy

    def serve(self, authority: Authority) -> Misbehaving:
        """
        Start a server that is certified by this CA.
        """
        number = len(self.servers)
        files = authority.issue(["dot.test"]).write(self.folder, f"server{number}")
        server = Misbehaving(self.folder, self.mode, *files, number)
        self.servers.append(server)
        server.start()
        return server

    def believe(self, *authorities: Authority) -> None:
        """
        Have the CA file hold these, in one step.
        """
        fresh = self.folder / "believed.new"
        fresh.write_bytes(b"".join(authority.pem for authority in authorities))
        fresh.rename(self.ca_file)

    def start(self, *options: str) -> Proxy:
        """
        Start dotproxy in front of the servers.
        """
        self.admin = self.folder / "admin"
        self.port = free_port()
        options += ("--admin-socket", str(self.admin), "--admin-listen", f"127.0.0.1:{self.port}")
        options += ("--ca-file", str(self.ca_file), "--workers", str(self.workers))
        self.program = self._proxy(*(server.upstream for server in self.servers), options=options)
        return self.program

    def told(self, *command: str) -> str:
        """
        Run a command against it.
        """
        done = subprocess.run(
            [sys.executable, "-m", "dotproxy", *command, "--socket", str(self.admin)],
            capture_output=True,
            text=True,
            check=False,
            env=self.program.environment(),
            cwd=self.folder,
        )
        return done.stdout + done.stderr

    def upstreams(self) -> list[dict]:
        """
        What is known of each upstream.
        """
        return json.loads(self.told("status", "--json"))["upstreams"]

    def learn(self, how: str) -> None:
        """
        Have it learn that the file has changed.
        """
        if how == "reload":
            assert "ca_file: new contents" in self.told("reload")
        elif how == "SIGHUP":
            assert self.program.process is not None
            self.program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "ca_file: new contents" in self.program.said(), "the new contents are told of", 15)

    def ask(self, rate: float, seconds: float, then: Callable[[], None]) -> Counted:
        """
        Ask all the time, and do something in another thread after two seconds.
        """
        failed: list[BaseException] = []

        def run() -> None:
            try:
                then()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            counted = Steady(client, self.program.host, self.program.port).ask(rate, seconds, {2.0: thread.start})
        thread.join()
        if failed:
            raise failed[0]
        return counted


@pytest.fixture
def laboratory(tmp_path: Path, proxy: Callable[..., Proxy]) -> Iterator[Callable[[str, int], Laboratory]]:
    """
    Make one; its servers end with the test.
    """
    made: list[Laboratory] = []

    def make(mode: str, workers: int) -> Laboratory:
        made.append(Laboratory(tmp_path, proxy, mode, workers))
        return made[-1]

    yield make
    for each in made:
        for server in each.servers:
            server.stop()


@pytest.mark.parametrize(("how", "workers", "mode"), CASES)
def test_upstream_of_a_removed_ca_gets_no_query(how, workers, mode, laboratory):
    """
    Of two upstreams one is certified by a CA that is removed: it gets no question any more, not over its connection,
    not over a new one, not over a resumed one; no client notices.
    """
    lab = laboratory(mode, workers)
    one, _ = lab.serve(lab.old), lab.serve(lab.new)
    lab.believe(lab.old, lab.new)
    lab.start("--policy", "round_robin")
    seen: list[tuple[int, int, float]] = []

    def replace() -> None:
        before = lab.upstreams()[0]["answers"]
        lab.believe(lab.new)
        began = time.monotonic()
        lab.learn(how)
        took = time.monotonic() - began
        # What was outstanding on the old connections is cut after four seconds at most.
        wait_until(lambda: not connections_to(one.port), "the old connections are gone", 10)
        wait_until(lambda: lab.upstreams()[0]["state"] == "down", "it is down for every worker", 10)
        seen.append((before, lab.upstreams()[0]["answers"], took))

    counted = lab.ask(200, 9, replace)
    status = lab.upstreams()
    ((before, at_change, took),) = seen
    print(
        f"\n{how}, {workers} process(es), {mode}: asked {counted.asked}, right {counted.right}, SERVFAIL"
        f" {counted.servfail}, lost {counted.lost}, p99 {counted.percentile(0.99) * 1000:.0f} ms; taken in after"
        f" {took:.1f} s; the old CA's upstream: answers {before} before, {at_change} at the change, now"
        f" {status[0]['answers']}, {status[0]['state']}: {status[0]['error']}"
    )
    assert (counted.lost, counted.servfail, counted.wrong, counted.right) == (0, 0, 0, counted.asked)
    assert before > 0
    assert status[0]["answers"] == at_change
    assert "is from an unknown CA" in status[0]["error"] or "unknown self-signed CA" in status[0]["error"]
    assert (status[0]["verified"], status[1]["verified"]) == (False, True)
    assert connections_to(one.port) == 0


@pytest.mark.parametrize(("mode", "workers"), [("tls_1_2", 1), ("healthy", 2)])
def test_only_upstream_fails_until_its_ca_is_back(mode, workers, laboratory):
    """
    Then nothing is answered, and it is said why; when the CA is back so are the answers, within seconds and by itself.
    """
    lab = laboratory(mode, workers)
    lab.serve(lab.old)
    lab.believe(lab.old)
    program = lab.start()
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\1n\1x\x0bmisbehaving\7example\0\0\1\0\1"
    assert program.ask(query)[3] & 15 == 0
    lab.believe(lab.new)
    lab.learn("reload")
    wait_until(lambda: lab.upstreams()[0]["state"] == "down", "it is down for every worker")
    assert program.ask(query)[3] & 15 == 2
    (upstream,) = lab.upstreams()
    assert upstream["error"].startswith("verify: the certificate is from an unknown CA")
    assert min(upstream["failed_attempts"], upstream["failed_connections"]) >= 1
    assert re.search(r"failing since \d{4}-.*Z \(0 min \d+ s\), \d+ failed attempts?: verify: ", lab.told("status"))
    assert "not ready: every upstream is down: 0 of 1 upstreams verified" in lab.told("status")
    lab.believe(lab.old)
    lab.learn("disk")
    wait_until(lambda: lab.upstreams()[0]["verified"], "it is verified again")
    wait_until(lambda: program.ask(query)[3] & 15 == 0, "every worker has the new contents", 10)


def test_truncated_ca_file_changes_nothing(laboratory):
    """
    Half a CA file changes nothing, and is told once; the whole one counts.
    """
    lab = laboratory("healthy", 2)
    lab.serve(lab.old)
    lab.believe(lab.old)
    program = lab.start()
    both = lab.new.pem + lab.old.pem
    lab.ca_file.write_bytes(both[:-100])
    wait_until(lambda: "is cut off" in program.said(), "it is told", 15)
    time.sleep(3)  # what is not to happen has to be given its time: another look
    assert program.said().count("is cut off: 2 certificates begin in it, 1 can be read; its previous contents") == 1
    assert "the configuration stays as it was" not in program.said()
    assert lab.upstreams()[0]["verified"]
    assert "is cut off" in lab.told("reload")
    lab.ca_file.write_bytes(both)
    wait_until(lambda: "ca_file: new contents" in program.said(), "it is taken", 15)
    wait_until(lambda: lab.upstreams()[0]["verified"], "it is verified")
