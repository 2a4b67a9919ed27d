"""
DNS over TLS for clients: real ones, a certificate that is replaced under load, clients that must show one.
"""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import dns.edns
import dns.message
import dns.rcode
import pytest

from dotproxy.testing.certificates import Authority
from tests.integration.programs import Proxy, free_port, run, wait_until
from tests.integration.servers import LONG_TXT, Bind, Nsd, Unbound
from tests.integration.tls_clients import DnsdistOverTls, Listening, StubbyOverTls, UnboundOverTls, ask_over

WWW = dns.message.make_query("www.lab.example", "A").to_wire()
PADDED_WWW = dns.message.make_query(
    "www.lab.example", "A", options=[dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(16))]
).to_wire()


@pytest.fixture
def listening(tmp_path: Path, authority: Authority) -> Listening:
    """
    A port and a certificate.
    """
    return Listening(tmp_path, authority)


def rcode_of(response: bytes) -> int:
    """
    What it says.
    """
    return dns.message.from_wire(response).rcode()


@pytest.mark.parametrize("workers", [1, 2])
def test_kdig_verifies_and_gets_padding_on_request(workers, listening, serve, proxy):
    """
    kdig verifies the certificate by CA and name, and by nothing else; its padded query gets a response of 468 octets,
    one that is not padded gets none; a long response comes whole.
    """
    program = proxy(serve(Nsd).upstream, options=listening.options("--workers", str(workers)))
    base = ("kdig", "@127.0.0.1", "-p", str(listening.port), "+retry=0")
    strict = (*base, f"+tls-ca={listening.ca}", "+tls-hostname=dot.test")
    said = run(*strict, "+padding", "www.lab.example", "A")
    assert "status: NOERROR" in said and "192.0.2.1" in said and "Received 468 B" in said, said
    assert re.search(r"TLS session \(TLS1.3\)", said), said
    said = run(*strict, "+nopadding", "www.lab.example", "A")
    assert "192.0.2.1" in said and "PADDING" not in said, said
    said = run(*strict, "+bufsize=512", "long.lab.example", "TXT")
    flags = re.search(r"Flags: ([a-z ]*);", said)
    assert flags and "tc" not in flags[1].split()
    received = re.search(r"Received (\d+) B", said)
    assert received and int(received[1]) > LONG_TXT - 60, said
    said = run(*base, f"+tls-ca={listening.ca}", "+tls-hostname=other.test", "www.lab.example", "A")
    assert "192.0.2.1" not in said and "status: NOERROR" not in said, said
    for _ in range(4):  # whichever worker takes it
        assert "192.0.2.1" in run(*strict, "www.lab.example", "A")
    assert f"listening on 127.0.0.1:{listening.port} (TLS)" in program.said()


@pytest.mark.parametrize("kind", [UnboundOverTls, StubbyOverTls, DnsdistOverTls], ids=lambda kind: kind.program)
def test_other_forwarders_are_served_over_tls(kind, listening, serve, proxy, tmp_path):
    """
    Other forwarders get everything over TLS, which they verify: short and long, what is not there, a hundred names.
    """
    program = proxy(serve(Nsd).upstream, options=listening.options("--query-log", "clear"), cache=True)
    forwarder = kind(tmp_path, listening)
    forwarder.start()
    try:
        common = ("dig", "@127.0.0.1", "-p", str(forwarder.port), "+time=10", "+tries=1")
        assert run(*common, "+short", "www.lab.example", "A") == "192.0.2.1\n"
        assert len(run(*common, "+tcp", "+short", "long.lab.example", "TXT")) > LONG_TXT
        assert "NXDOMAIN" in run(*common, "nothing.lab.example", "A")
        for number in range(100):
            assert run(*common, "+short", f"n{number}.wild.lab.example", "A") == "192.0.2.99\n"
    finally:
        forwarder.stop()
    logged = re.findall(r"(\w+) 127\.0\.0\.1 n\d+\.wild\.lab\.example\. A NOERROR", program.said())
    assert len(set(logged)) == 1 and logged[0] == "tls" and len(logged) >= 100


def test_dotproxy_can_be_the_upstream_of_dotproxy(listening, serve, proxy, ca_file):
    """
    dotproxy can be the upstream of dotproxy, which verifies it, pads its queries and resumes sessions.
    """
    behind = proxy(serve(Nsd).upstream, options=listening.options("--query-log", "clear"))
    front = proxy(f"tls://127.0.0.1:{listening.port}#dot.test", options=("--upstream-idle-timeout", "0.3"))
    for _ in range(3):
        assert rcode_of(front.ask(WWW)) == 0
        long = dns.message.from_wire(front.ask(dns.message.make_query("long.lab.example", "TXT").to_wire(), tcp=True))
        assert len(long.answer[0][0].strings) == 17
        time.sleep(0.5)
    said = front.said()
    assert f"127.0.0.1:{listening.port}" in said and "TLSv1.3" in said and "verified as dot.test" in said
    logged = re.findall(r"tls 127\.0\.0\.1 www\.lab\.example\. A NOERROR (\d+)", behind.said())
    assert len(logged) == 3


def test_zone_is_transferred_over_tls(listening, serve, proxy):
    """
    A zone comes over TLS, too (RFC 9103): the SOA first and last, and every record between.
    """
    proxy(serve(Nsd).upstream, options=listening.options())
    command = ("kdig", "@127.0.0.1", "-p", str(listening.port), f"+tls-ca={listening.ca}", "+tls-hostname=dot.test")
    said = run(*command, "lab.example", "AXFR")
    assert len(re.findall(r"^lab\.example\.\s+\d+\s+IN\s+SOA", said, re.MULTILINE)) == 2, said[-2000:]
    assert len(re.findall(r"^huge\.lab\.example\.", said, re.MULTILINE)) == 95


def test_client_expecting_another_name_sends_no_query(listening, serve, proxy, tmp_path):
    """
    A forwarder that expects another name, or another CA, asks nothing.
    """
    server = serve()
    program = proxy(server.upstream, options=listening.options())
    listening.ca.write_bytes(Authority("other").pem)
    forwarder = UnboundOverTls(tmp_path, listening)
    forwarder.start()
    try:
        assert "SERVFAIL" in run("dig", "@127.0.0.1", "-p", str(forwarder.port), "+time=20", "www.lab.example", "A")
    finally:
        forwarder.stop()
    assert server.questions == []
    assert program.process is not None and program.process.poll() is None


def test_clients_without_the_right_certificate_are_refused(listening, serve, proxy, tmp_path, authority):
    """
    With ``tls_client_ca``, kdig with a certificate of that CA is answered; with another, or with none, it is not, and
    nothing of it is asked. The metrics count their handshakes.
    """
    server = serve()
    clients, strangers = Authority("clients"), Authority("strangers")
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    right = clients.issue(["phone.test"], is_client=True).write(tmp_path, "phone")
    wrong = strangers.issue(["phone.test"], is_client=True).write(tmp_path, "stranger")
    admin = free_port()
    options = ("--tls-client-ca", str(tmp_path / "clients.pem"), "--admin-listen", f"127.0.0.1:{admin}")
    proxy(server.upstream, options=listening.options(*options))
    base = ("kdig", "@127.0.0.1", "-p", str(listening.port), "+retry=0", "+time=3")
    base += (f"+tls-ca={listening.ca}", "+tls-hostname=dot.test", "www.lab.example", "A")
    said = run(*base, f"+tls-certfile={right[0]}", f"+tls-keyfile={right[1]}")
    assert "192.0.2.1" in said, said
    for shown in ((f"+tls-certfile={wrong[0]}", f"+tls-keyfile={wrong[1]}"), ()):
        said = run(*base, *shown)
        assert "192.0.2.1" not in said, said
    assert len([line for line in server.questions if "www.lab.example" in line]) == 1
    context = listening.context(right)
    for _ in range(3):
        assert rcode_of(listening.ask(WWW, context)) == 0
    with pytest.raises((OSError, EOFError)):
        listening.ask(WWW)
    metrics = run_curl(f"http://127.0.0.1:{admin}/metrics")
    assert 'dotproxy_tls_handshakes_total{outcome="completed"} 4.0' in metrics
    assert 'dotproxy_tls_handshakes_total{outcome="failed"} 3.0' in metrics


def run_curl(url: str) -> str:
    """
    A page.
    """
    import urllib.request

    with urllib.request.urlopen(url, timeout=10) as page:
        return page.read().decode()


class Visitors:
    """
    New connections, one each 10 ms, each of which asks a question.

    ``serials`` counts the certificates they were shown, ``failed`` holds why a visit failed.
    """

    def __init__(self, listening: Listening) -> None:
        self.listening = listening
        self.serials: dict[int, int] = {}
        self.failed: list[str] = []
        self.visits = 0
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._visit_often, args=(number,)) for number in range(4)]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _visit_often(self, number: int) -> None:
        context = self.listening.context()
        due = time.monotonic() + number * 0.01
        while not self._is_over.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due += 0.04
            self._visit(context)

    def _visit(self, context: ssl.SSLContext) -> None:
        try:
            with self.listening.connection(context) as tls:
                shown = tls.getpeercert()
                assert shown
                assert rcode_of(ask_over(tls, WWW)) == 0
                serial = int(shown["serialNumber"], 16)
                with self._lock:
                    self.visits += 1
                    self.serials[serial] = self.serials.get(serial, 0) + 1
        except (OSError, EOFError, AssertionError) as error:
            with self._lock:
                self.failed.append(repr(error))


@pytest.mark.parametrize(
    ("workers", "how"),
    [
        *[(2, "disk"), (1, "reload")],
        *(pytest.param(*case, marks=pytest.mark.soak) for case in ((1, "disk"), (2, "SIGHUP"))),
    ],
)
def test_certificate_is_replaced_under_load_without_a_failure(
    workers, how, listening, serve, proxy, authority, tmp_path
):
    """
    While a hundred clients connect in a second, the certificate is replaced: none is refused, all of them verify what
    they are shown, first one and then the other; a connection that stands goes on. Half of a pair is told of in a line,
    and changes nothing.
    """
    admin = tmp_path / "admin"
    options = ("--workers", str(workers), "--admin-socket", str(admin), "--tcp-max-connections", "1000")
    program = proxy(serve(Nsd).upstream, options=listening.options(*options), cache=True)
    old, new = listening.issued, authority.issue(["dot.test"])
    with listening.connection() as standing, Visitors(listening) as visitors:
        wait_until(lambda: visitors.visits > 50, "clients come")
        if how == "disk":
            listening.key.write_bytes(new.key_pem[:100])  # an interrupted copy
            wait_until(lambda: "holds no PEM key that can be read" in program.said(), "the half is noticed")
        before = visitors.visits
        wait_until(lambda: visitors.visits > before + 50, "clients come")
        assert set(visitors.serials) == {old.certificate.serial_number}
        listening.write(new)
        if how == "reload":
            said = run(sys.executable, "-m", "dotproxy", "reload", "--socket", str(admin))
            # On a slow machine the watch may have been first.
            assert "tls_certificate: new contents" in said + program.said(), said
        elif how == "SIGHUP":
            assert program.process is not None
            program.process.send_signal(signal.SIGHUP)
        serial = new.certificate.serial_number
        wait_until(lambda: visitors.serials.get(serial, 0) > 100, "the new one is shown")
        asked = ask_over(standing, WWW)
        assert rcode_of(asked) == 0
    assert visitors.failed == []
    assert set(visitors.serials) == {old.certificate.serial_number, serial}
    assert rcode_of(listening.ask(WWW)) == 0
    assert program.said().count("tls_certificate: new contents; tls_key: new contents") == 1
    print(f"{visitors.visits} visits, none failed: {sorted(visitors.serials.values())} by certificate")


def test_unfinished_handshakes_end_after_5_s(listening, serve, proxy):
    """
    A client that connects and sends nothing, and one that sends half a handshake, are gone after 5 s; others are served
    meanwhile, though all places but one were theirs.
    """
    proxy(serve().upstream, options=listening.options("--tcp-max-connections", "20"))
    began = time.monotonic()
    with contextlib.ExitStack() as opened:
        halves = [opened.enter_context(socket.create_connection(("127.0.0.1", listening.port))) for _ in range(19)]
        for number, half in enumerate(halves):
            half.settimeout(15)
            if number % 2:
                half.sendall(b"\x16\x03\x01\x02\0\x01\0")
        assert rcode_of(listening.ask(WWW)) == 0
        for half in halves:
            with contextlib.suppress(ConnectionResetError):
                while half.recv(4096):
                    pass
    assert 4 < time.monotonic() - began < 12
    assert rcode_of(listening.ask(WWW)) == 0


def test_status_and_metrics_of_the_tls_listener(listening, serve, proxy, tmp_path):
    """
    The status, the metrics, and a warning for a key that everybody can read.
    """
    listening.key.chmod(0o644)
    admin, port = tmp_path / "admin", free_port()
    options = ("--admin-socket", str(admin), "--admin-listen", f"127.0.0.1:{port}")
    program = proxy(serve().upstream, options=listening.options(*options))
    assert f"'{listening.key}' can be read by every user; chmod o-r protects it" in program.said()
    with listening.connection() as tls:
        assert rcode_of(ask_over(tls, WWW)) == 0
        said = run(sys.executable, "-m", "dotproxy", "status", "--socket", str(admin))
        assert f"listening for TLS on 127.0.0.1:{listening.port}; the certificate expires on " in said, said
        metrics = run_curl(f"http://127.0.0.1:{port}/metrics")
    assert re.search(r'answers_total\{rcode="NOERROR",transport="tls",type="A"\} 1.0', metrics), metrics
    expected = listening.issued.certificate.not_valid_after_utc.timestamp()
    found = re.search(r"^dotproxy_tls_certificate_expiry_timestamp_seconds (\S+)$", metrics, re.MULTILINE)
    assert found and float(found[1]) == expected
    assert "dotproxy_tls_clients 1.0" in metrics and "dotproxy_tcp_clients 0.0" in metrics


@pytest.mark.parametrize("transparent", [False, True])
def test_padding_and_idle_timeout_are_the_listeners_own(transparent, listening, serve, proxy):
    """
    Padding and the idle timeout are the listener's own, whether EDNS is rebuilt or passed on; a client that did not ask
    for them does not get them; nothing is padded over TCP.
    """
    options = listening.options("--transparent", "yes" if transparent else "no")
    program = proxy(serve(Bind).upstream, options=options, cache=True)
    for _ in range(2):  # the second is from the cache
        padded = listening.ask(PADDED_WWW)
        assert len(padded) == 468
        assert dns.message.from_wire(padded).options[-1].otype == dns.edns.OptionType.PADDING
        plain = dns.message.from_wire(listening.ask(WWW))
        assert dns.edns.OptionType.PADDING not in [one.otype for one in plain.options]
        assert len(program.ask(PADDED_WWW, tcp=True)) < 200
    if not transparent:
        keepalive = dns.edns.GenericOption(11, b"")
        query = dns.message.make_query("www.lab.example", "A", options=[keepalive]).to_wire()
        (told,) = dns.message.from_wire(listening.ask(query)).options
        assert told.otype == 11 and told.to_wire() == struct.pack("!H", 100)


def test_access_list_and_drain_hold_over_tls(listening, serve, proxy):
    """
    A client that is not served is refused over TLS, too; when dotproxy stops, what was asked is answered, and the
    connection ends with close_notify.
    """
    program = proxy(serve(Unbound).upstream, options=listening.options("--allow-from", "127.0.0.1/32"))
    assert rcode_of(listening.ask(WWW, source="127.0.0.2")) == dns.rcode.REFUSED
    with listening.connection() as tls:
        assert rcode_of(ask_over(tls, WWW)) == 0
        assert program.process is not None
        program.process.send_signal(signal.SIGTERM)
        assert tls.recv(10) == b""  # else an error: without close_notify it is no proper end
    program.process.wait(10)


def test_socket_named_tls_is_served_over_tls(listening, serve, ca_file, tmp_path):
    """
    A socket that a unit has named "tls" is served over TLS, in place of what ``listen_tls`` says.
    """
    server = serve()
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, socket.socket() as streams, socket.socket() as tls:
        for one in (datagrams, streams, tls):
            one.bind(("127.0.0.1", 0))
        streams.listen()
        tls.listen()
        listening.port = tls.getsockname()[1]
        given = [one.fileno() for one in (datagrams, tls, streams)]
        arguments = [sys.executable, "-m", "dotproxy", "run", "--ca-file", str(ca_file), "--upstream", server.upstream]
        arguments += ["--log-format", "text", "--tls-certificate", str(listening.certificate)]
        arguments += ["--listen-tls", "127.0.0.1:1", "--tls-key", str(listening.key)]
        program = f"""
import os
for number, descriptor in enumerate({given}):
    os.dup2(descriptor, 60 + number)
for number in range(3):
    os.dup2(60 + number, 3 + number)
os.environ |= {{"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "dns:tls:dns"}}
os.execv({sys.executable!r}, {arguments!r})
"""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DOTPROXY_")}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", program], pass_fds=given, stdout=log, stderr=log, env=environment, cwd=tmp_path
            )
        try:
            wait_until(lambda: "ready: " in (tmp_path / "log").read_text(), "it serves")
            assert rcode_of(listening.ask(WWW)) == 0
            with socket.create_connection(streams.getsockname()) as plain:
                plain.settimeout(10)
                assert rcode_of(ask_over(plain, WWW)) == 0
        finally:
            process.terminate()
            process.wait(10)


def test_port_in_use_is_reported_with_the_others(listening, ca_file, tmp_path):
    """
    A port that another program has is told with the others, in one go.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", listening.port))
        taken.listen()
        program = Proxy(tmp_path / "log", ca_file, ("tls://127.0.0.1:1#dot.test",), listening.options())
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", program.port))
            program.launch()
            assert program.process is not None
            assert program.process.wait(30) == 1
    said = program.said()
    assert f"cannot listen on 127.0.0.1 port {program.port} (UDP): the address is in use" in said
    assert f"cannot listen on 127.0.0.1 port {listening.port} (TCP): the address is in use" in said


def test_status_has_the_tls_listener_and_expiry(listening, serve, proxy, tmp_path):
    """
    Where TLS is listened for, and when the certificate expires, with workers as without.
    """
    admin = tmp_path / "admin"
    proxy(serve().upstream, options=listening.options("--admin-socket", str(admin), "--workers", "2"))
    status = json.loads(run(sys.executable, "-m", "dotproxy", "status", "--json", "--socket", str(admin)))
    assert status["listening_tls"] == [f"127.0.0.1:{listening.port}"]
    expires = listening.issued.certificate.not_valid_after_utc
    assert status["tls_certificate_expires"] == f"{expires:%Y-%m-%dT%H:%M:%SZ}"
