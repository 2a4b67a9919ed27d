"""
Upstreams that are down, or not who they should be.
"""

import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from dotproxy.policy.pins import show_pin
from dotproxy.testing.certificates import Authority
from tests.integration.programs import PATIENCE, run, wait_until
from tests.integration.servers import Unbound

WWW = dns.message.make_query("www.lab.example.", "A", use_edns=0)


def ask(program, *, tcp: bool = False) -> tuple[str, str]:
    """
    Ask for www; return the rcode, and the address or the Extended DNS Error.
    """
    reply = dns.message.from_wire(program.ask(WWW.to_wire(), tcp=tcp))
    assert WWW.is_response(reply)
    if reply.answer:
        return dns.rcode.to_text(reply.rcode()), reply.answer[0][0].to_text()
    errors = [f"{int(option.code)} {option.text}" for option in reply.options]
    return dns.rcode.to_text(reply.rcode()), "; ".join(errors)


ANSWER = ("NOERROR", "192.0.2.1")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_dead_upstream_is_servfail_until_it_returns(how, serve, proxy):
    """
    While the upstream is dead there is SERVFAIL with the reason, in time; when it is back there are answers
    within two seconds, without a restart; the log has one line for each of the two changes.
    """
    server = serve()
    program = proxy(server.upstream)
    assert ask(program) == ask(program, tcp=True) == ANSWER
    server.stop(how)
    for tcp in (False, True, False):
        began = time.monotonic()
        rcode, reason = ask(program, tcp=tcp)
        assert time.monotonic() - began < 5
        assert (rcode, reason) == ("SERVFAIL", f"22 dot.test (127.0.0.1:{server.port}): connect: connection refused")
    shown = run("dig", "@127.0.0.1", "-p", str(program.port), "+tries=1", "www.lab.example")
    assert "status: SERVFAIL" in shown
    assert "EDE: 22 (No Reachable Authority)" in shown
    server.start()
    began = time.monotonic()
    wait_until(lambda: ask(program) == ANSWER, "answers again", patience=2)
    assert time.monotonic() - began < 2
    lines = program.said()
    assert (lines.count(": down: "), lines.count(": up again ")) == (1, 1)


def test_frozen_upstream_is_detected_and_replaced(serve, proxy):
    """
    An upstream that stands still with its connection open is found out; the client is answered by the other.
    """
    frozen, healthy = serve(), serve()
    program = proxy(frozen.upstream, healthy.upstream)
    assert ask(program) == ANSWER
    assert len(frozen.questions) == 1
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert ask(program) == ANSWER
        assert time.monotonic() - began < 2.5
        wait_until(lambda: ": down: read: connected, but silent" in program.said(), "it is known to be down")
        began = time.monotonic()
        assert ask(program) == ANSWER
        assert time.monotonic() - began < 0.5
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    wait_until(lambda: ": up again " in program.said(), "it is known to be up")


@pytest.mark.parametrize("policy", ["failover", "round_robin", "random"])
def test_one_working_upstream_answers_everything(policy, serve, proxy):
    """
    With one upstream that works every question is answered, whatever the policy and the other's trouble.
    """
    good, dead, wrong = serve(), serve(), serve(certificate=Authority("a stranger").issue(["dot.test"]))
    dead.stop()
    program = proxy(dead.upstream, wrong.upstream, good.upstream, options=("--policy", policy))
    for n in range(20):
        assert ask(program, tcp=n % 2 == 1) == ANSWER
    assert wrong.questions == []


def test_upstream_killed_under_load_costs_no_response(serve, proxy):
    """
    An upstream that is killed with questions outstanding costs nobody an answer while there is another.
    """
    first, second = serve(log_queries=False), serve(log_queries=False)
    program = proxy(first.upstream, second.upstream)
    answered: list[tuple[str, str]] = []
    enough = threading.Event()

    def client() -> None:
        while not enough.is_set():
            answered.append(ask(program))

    threads = [threading.Thread(target=client) for _ in range(20)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(answered) > 500, "500 questions are answered")
        first.stop(signal.SIGKILL)
        wait_until(lambda: len(answered) > 2000, "2000 are")
        first.start()
        wait_until(lambda: ": up again " in program.said(), "the first is up again")
    finally:
        enough.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert set(answered) == {ANSWER}
    assert program.said().count(": down: ") == 1


def bad_certificates(authority: Authority):
    """
    Certificates nobody may be fooled by: why → (certificate, what is said of it).
    """
    day = timedelta(days=1)
    return {
        "expired": (authority.issue(["dot.test"], starts=-2 * day, ends=-day), "the certificate has expired"),
        "not yet valid": (authority.issue(["dot.test"], starts=day), "the certificate is not yet valid"),
        "self-signed": (authority.issue(["dot.test"], self_signed=True), "the certificate is self-signed"),
        "unknown CA": (Authority("a stranger").issue(["dot.test"]), "from an unknown CA"),
        "wrong name": (authority.issue(["other.test"]), "is for other.test, not for dot.test"),
        "name in CN only": (authority.issue([], common_name="dot.test"), "names cannot be used"),
        "no SAN": (authority.issue([]), "names cannot be used"),
        "malformed SAN": (
            authority.issue([], san=b"\x30\x0a\x82\x08d\xc3\xb6t.te\n"),
            "is for 'd\\xf6t.te\\n', not for dot.test",
        ),
        "e-mail SAN": (authority.issue([], san=b"\x30\x0c\x81\x0ame@dot.tes"), "is for no host name, not for dot.test"),
        "invalid wildcard SAN": (authority.issue([], san=b"\x30\x08\x82\x06*.test"), "is for *.test, not for dot.test"),
    }


@pytest.mark.parametrize("why", list(bad_certificates(Authority())))
def test_bad_certificates_are_refused_before_any_query(why, authority, serve, proxy):
    """
    A certificate that is not the upstream's leads to SERVFAIL that says so, and not one question reaches the
    server; with the right one there are answers, without a restart (RFC 8310 §5, §8.1).
    """
    certificate, reason = bad_certificates(authority)[why]
    server = serve(Unbound, certificate)
    program = proxy(server.upstream)
    for tcp in (False, True, False):
        began = time.monotonic()
        rcode, told = ask(program, tcp=tcp)
        assert time.monotonic() - began < 2
        assert rcode == "SERVFAIL"
        assert f"22 dot.test (127.0.0.1:{server.port}): verify: " in told
        assert reason in told
    assert server.questions == []
    server.stop()
    server.use(authority.issue(["dot.test"]))
    server.start()
    wait_until(lambda: ask(program) == ANSWER, "answers", patience=5)
    assert len(server.questions) > 0


def test_ip_addresses_and_pins_are_verified(authority, serve, proxy):
    """
    Without a name the IP address is verified; pins have to match besides, of which any may.
    """
    certificate = authority.issue(["dot.test", "127.0.0.1"])
    server, nameless = serve(Unbound, certificate), serve(Unbound, authority.issue(["dot.test"]))
    assert ask(proxy(f"tls://127.0.0.1:{server.port}")) == ANSWER
    rcode, told = ask(proxy(f"tls://127.0.0.1:{nameless.port}"))
    assert (rcode, "verify: the certificate is for dot.test, not for 127.0.0.1" in told) == ("SERVFAIL", True)
    assert nameless.questions == []
    right, wrong = show_pin(certificate.pin), show_pin(b"\1" * 32)
    assert ask(proxy(f"{server.upstream}?pin-sha256={wrong}&pin-sha256={right}")) == ANSWER
    assert ask(proxy(f"{server.upstream}?pin-sha256={show_pin(authority.root.pin)}")) == ANSWER
    asked = len(server.questions)
    rcode, told = ask(proxy(f"{server.upstream}?pin-sha256={wrong}"))
    assert (rcode, told.endswith(f"the key's pin is {right}")) == ("SERVFAIL", True)
    assert len(server.questions) == asked


def test_wrong_certificate_after_a_restart_is_refused(authority, serve, proxy):
    """
    A server that was verified once, and comes back as somebody else, is refused, session or no session.
    """
    server = serve()
    program = proxy(server.upstream)
    assert ask(program) == ANSWER
    server.stop()
    asked = len(server.questions)
    server.use(authority.issue(["other.test"]))
    server.start()
    wait_until(lambda: "verify: the certificate is for other.test" in ask(program)[1], "it is refused", patience=5)
    assert len(server.questions) == asked


def test_sessions_are_resumed_on_the_next_connection(serve, proxy):
    """
    A second connection to a real server resumes the first one's session.
    """
    server = serve()
    program = proxy(server.upstream, options=("--upstream-idle-timeout", "0.2", "--log-level", "debug"))
    assert ask(program) == ANSWER
    ended = program.said().count("connection ended")  # that of the start may have, before it was asked anything
    wait_until(lambda: program.said().count("connection ended") > ended, "the idle connection is closed")
    assert ask(program) == ANSWER
    assert "TLSv1.3 resumed, verified as dot.test" in program.said()


def test_ca_file_replaces_the_systems_cas(serve, proxy, tmp_path: Path):
    """
    A CA file replaces the system's CAs; one with another CA leads nowhere.
    """
    server = serve()
    other = tmp_path / "other.pem"
    other.write_bytes(Authority("a stranger").pem)
    program = proxy(server.upstream, options=("--ca-file", str(other)))
    assert "from an unknown CA" in ask(program)[1]
    assert server.questions == []
