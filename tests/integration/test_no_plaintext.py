"""
Everything dotproxy sends, as the kernel sees it: no question leaves but inside TLS.
"""

import os
import re
import signal
from pathlib import Path

import dns.message
import pytest

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Proxy, which

WWW = dns.message.make_query("www.lab.example.", "A", use_edns=0).to_wire()


class Traced(Proxy):
    """
    dotproxy, watched by strace: every network call, and every write, with what is written.
    """

    def __init__(self, log: Path, ca_file: Path, upstreams: tuple[str, ...], options: tuple[str, ...] = ()) -> None:
        super().__init__(log, ca_file, upstreams, options)
        self.trace = log.with_suffix(".strace")

    def command(self) -> list[str]:
        """
        In the foreground.
        """
        strace = [which("strace"), "-f", "-yy", "-xx", "-s", "65535", "-o", str(self.trace)]
        return [*strace, "-e", "trace=%network,write,writev", *super().command()]

    def stop(self, how: int = signal.SIGTERM) -> int:
        """
        End it; strace, which would leave it behind, ends with it.
        """
        if self.process.poll() is not None:
            return self.process.returncode
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), how)
        return self.process.wait(20)

    def sent(self) -> list[tuple[str, str, bytes]]:
        """
        Each call that sends: its name, its socket as strace shows it, and the octets.
        """
        calls: list[tuple[str, str, bytes]] = []
        for line in self.trace.read_text().splitlines():
            found = re.search(r"(write|writev|send|sendto|sendmsg|sendmmsg)\(\d+<((?:TCP|UDP)\w*:\[[^\]]*\])>", line)
            if found:
                texts = re.findall(r'"((?:\\x..)*)"', line.rpartition(", {sa_family")[0] or line)
                octets = b"".join(bytes.fromhex(text.replace("\\x", "")) for text in texts)
                calls.append((found[1], found[2], octets))
        return calls

    def connected_to(self) -> set[tuple[str, str]]:
        """
        Where its sockets were connected to: kind of socket, and port.
        """
        lines = re.findall(r"connect\(\d+<(TCP|UDP)[^{]*(\{[^}]*\})", self.trace.read_text())
        return {(kind, found[1]) for kind, where in lines if (found := re.search(r"port=htons\((\d+)\)", where))}


@pytest.fixture
def traced(ca_file: Path, tmp_path: Path):
    """
    Start dotproxy under strace; it ends with the test.
    """
    started: list[Traced] = []

    def start(*upstreams: str) -> Traced:
        program = Traced(tmp_path / "traced.log", ca_file, upstreams)
        started.append(program)
        program.start()
        if "ptrace" in program.said() and "not permitted" in program.said():
            pytest.skip("strace may not trace here")
        return program

    yield start
    for program in started:
        program.stop()


def test_only_tls_records_leave(serve, traced):
    """
    With an upstream that works, one that is somebody else, and one that is dead: what is sent to upstreams are TLS
    records, of application data only to the one that was verified; what is sent in the clear goes to clients
    (RFC 7858 §3.1, RFC 8310 §5).
    """
    good, dead = serve(), serve()
    wrong = serve(certificate=Authority("a stranger").issue(["dot.test"]))
    program = traced(wrong.upstream, dead.upstream, good.upstream)
    for tcp in (False, True):
        for _ in range(5):
            assert dns.message.from_wire(program.ask(WWW, tcp=tcp)).answer
    dead.stop()
    good.stop()
    assert dns.message.from_wire(program.ask(WWW)).rcode() == 2
    good.start()
    for tcp in (False, True):
        assert program.ask(WWW, tcp=tcp)
        assert program.ask(WWW[:-4], tcp=tcp)
    program.stop()

    ports = {str(server.port) for server in (good, dead, wrong)}
    connected = program.connected_to()
    assert {port for kind, port in connected if kind == "TCP"} <= ports
    # A datagram socket may be connected, to learn its own address: nothing is sent over it.
    assert {port for kind, port in connected if kind == "UDP"} <= {"853"}
    sent = program.sent()
    to_upstreams = [
        (port, octets)
        for _, place, octets in sent
        for port in re.findall(r"->127\.0\.0\.1:(\d+)\]$", place)
        if port in ports and octets  # Twisted sends nothing at all before it closes
    ]
    assert len(to_upstreams) > 3
    for port, octets in to_upstreams:
        assert octets[0] in (0x14, 0x15, 0x16, 0x17)
        assert octets[1] == 3
        assert b"example" not in octets
        # A client's Finished is a record of application data, too; a question is longer.
        assert port != str(wrong.port) or octets[0] != 0x17 or len(octets) < 128
    others = {place for _, place, _ in sent if not re.search(f"->127.0.0.1:({'|'.join(ports)})]$", place)}
    assert others
    assert {place for place in others if f"[127.0.0.1:{program.port}" not in place} == set()
    assert wrong.questions == []
