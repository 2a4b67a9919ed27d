"""
What is kept, in the whole program.
"""

import time

import dns.edns
import dns.message
import dns.rcode

from tests.integration.programs import wait_until
from tests.integration.servers import ZONE, KnotResolver, Nsd

WWW = dns.message.make_query("www.lab.example.", "A", use_edns=0)

#: The zone, of records that live for a second.
SHORT = ZONE.replace("$TTL 300", "$TTL 1")


def ask(program, *, tcp: bool = False) -> tuple[int, int, list[int]]:
    """
    Ask for www; return the rcode, the TTL, and the Extended DNS Errors' codes.
    """
    reply = dns.message.from_wire(program.ask(WWW.to_wire(), tcp=tcp))
    assert WWW.is_response(reply)
    errors = [int(option.code) for option in reply.options if option.otype == dns.edns.OptionType.EDE]
    return int(reply.rcode()), reply.answer[0].ttl if reply.answer else -1, errors


def test_cached_response_is_served_over_both_transports(serve, proxy):
    """
    Whatever the transport, until its TTL ends (RFC 1035 §7.4).
    """
    server = serve()
    program = proxy(server.upstream, cache=True)
    for tcp in (False, True, False):
        rcode, ttl, _ = ask(program, tcp=tcp)
        assert rcode == 0
        assert 295 <= ttl <= 300
    assert 1 <= len(server.questions) <= program.workers  # over TCP it may be another worker's client


def test_ttl_never_exceeds_the_upstreams(serve, proxy):
    """
    While an upstream counts down the TTL of what it keeps, no answer through dotproxy has a higher one, over either
    transport, from the cache or from memory (RFC 1035 §3.2.1), and none is more than 2 s below; what comes from the
    upstream comes with the upstream's.
    """
    server = serve(KnotResolver)
    program = proxy(server.upstream, cache=True)
    with server.asked_directly() as direct:

        def upstreams() -> int:
            return int(dns.message.from_wire(direct(WWW.to_wire())).answer[0].ttl)

        before = upstreams()
        _, first, _ = ask(program)
        assert upstreams() <= first <= before
        count = 0
        while upstreams() > first - 4:
            for tcp in (False, True, False):
                before = upstreams()
                _, ttl, _ = ask(program, tcp=tcp)
                assert ttl <= before
                assert ttl >= upstreams() - 2 or program.workers > 1
            count += 1
        assert count >= 10


def test_stale_response_is_served_until_the_upstream_returns(serve, proxy):
    """
    When the upstream is gone clients still get what was known, marked, and at once (RFC 8767 §5); when it is back, they
    get what is fresh.
    """
    server = serve(Nsd, zone=SHORT)
    program = proxy(server.upstream, cache=True)
    assert ask(program) == (0, 1, [])
    server.stop()
    time.sleep(1.2)
    for _ in range(3):
        began = time.monotonic()
        assert ask(program) == (0, 30, [3])
        assert time.monotonic() - began < 2.2
    server.start()
    wait_until(lambda: ask(program) == (0, 1, []), "a fresh answer", patience=5)


def test_cache_file_survives_a_restart(serve, proxy, tmp_path):
    """
    What was kept is kept when it starts again, though no upstream is there; a file that is damaged is set aside.
    """
    file = tmp_path / "kept"
    server = serve()
    program = proxy(server.upstream, cache=True, options=("--cache-file", str(file)))
    assert ask(program)[0] == 0
    server.stop()
    program.stop()
    if program.workers > 1:  # each has its own; this name is one worker's
        (file,) = [one for one in tmp_path.glob("kept.*") if one.stat().st_size > 60]
    assert file.stat().st_mode & 0o777 == 0o600
    time.sleep(1)
    program.start()
    wait_until(lambda: "1 response from" in program.said(), "the file is read")
    rcode, ttl, _ = ask(program)
    assert (rcode, ttl <= 299) == (0, True)
    program.stop()
    file.write_bytes(file.read_bytes()[:-1])
    program.start()
    wait_until(
        lambda: f"its authentication code is wrong; it is now {file.name}.damaged" in program.said(), "it is set aside"
    )
    assert ask(program)[0] == dns.rcode.SERVFAIL
