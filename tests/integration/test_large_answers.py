"""
Answers nearly as long as a message can be, from a real server: BIND truncates, over TLS as well, what has no room for
the OPT that the question's OPT asks for.
"""

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.integration.programs import Proxy
from tests.integration.servers import ZONE, Bind

#: Beside an OPT with keepalive and client subnet, as BIND answers ours, there is room for 65,510 octets; beside one
#: without options for 65,524; for more only without an OPT.
SIZES = [65500, *range(65509, 65536)]

_HEADER, _RECORD = 12, 12


def records(name: str, size: int) -> list[str]:
    """
    TXT records for a name of lab.example that make the answer so many octets long, in lines of a zone file.
    """
    room = size - _HEADER - len(f"{name}.lab.example.") - 1 - 4
    lines: list[str] = []
    while room:
        take = min(room, 700)
        if 0 < room - take < 30:
            take -= 40
        room -= take
        texts: list[str] = []
        left = take - _RECORD
        while left:
            text = f"{len(lines):04d}".ljust(min(left, 256) - 1, "x")[: min(left, 256) - 1]
            texts.append(f'"{text}"')
            left -= len(text) + 1
        lines.append(f"{name} TXT {' '.join(texts)}")
    return lines


@pytest.fixture(scope="module")
def bind(authority, tmp_path_factory):
    """
    BIND, with an answer of each size.
    """
    folder = tmp_path_factory.mktemp("large")
    lines = [line for size in SIZES for line in records(f"s{size}", size)]
    zone = ZONE + "\n".join(lines) + "\n"
    server = Bind(folder, authority.issue(["dot.test", "127.0.0.1"]), zone=zone)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=[False, True], ids=["no cache", "cache"])
def program(request, bind, ca_file, tmp_path_factory):
    """
    dotproxy in front of it.
    """
    log = tmp_path_factory.mktemp("large") / "proxy.log"
    program = Proxy(log, ca_file, (bind.upstream,), cache=request.param)
    program.start()
    yield program
    program.stop()
    assert "Traceback" not in program.said()
    assert "down:" not in program.said()


@pytest.mark.parametrize("size", SIZES)
def test_large_responses_come_whole_over_tcp(size, bind, program):
    """
    Every record comes over TCP, as the server gives them to who asks without EDNS, also if there is no room for an
    OPT, of the upstream's or of ours (RFC 1035 §4.2.2, RFC 6891 §6.1.1); over UDP it is truncated.
    """
    direct = bind.ask(dns.message.make_query(f"s{size}.lab.example.", "TXT").to_wire())
    assert len(direct) == size
    assert not direct[2] & 2
    for edns in (0, -1):
        query = dns.message.make_query(f"s{size}.lab.example.", "TXT", use_edns=edns)
        for _ in range(2):
            whole = program.ask(query.to_wire(), tcp=True)
            message = dns.message.from_wire(whole)
            assert message.rcode() == dns.rcode.NOERROR
            assert message.answer == dns.message.from_wire(direct).answer
            has_room = edns == 0 and size + 11 <= 65535
            assert (message.edns == 0) == has_room
            assert len(whole) == size + 11 * has_room
        cut = program.ask(query.to_wire())
        assert len(cut) <= (1232 if edns == 0 else 512)
        message = dns.message.from_wire(cut, raise_on_truncation=False)
        assert (message.rcode(), bool(message.flags & dns.flags.TC), message.edns) == (dns.rcode.NOERROR, True, edns)


@pytest.mark.parametrize("size", [65518, 65519, 65524])
def test_do_is_kept_when_retried_without_options(size, program):
    """
    DO stays said when the question is asked again (RFC 3225 §3): with an OPT without options, which leaves room for
    65,524 octets.
    """
    query = dns.message.make_query(f"s{size}.lab.example.", "TXT", want_dnssec=True)
    message = dns.message.from_wire(program.ask(query.to_wire(), tcp=True))
    assert (message.rcode(), message.edns, message.ednsflags) == (dns.rcode.NOERROR, 0, dns.flags.DO)
    assert len(message.answer[0]) > 90


def test_response_too_large_with_dnssec_is_servfail(bind, program):
    """
    Where the server itself has no answer to a question with DO, there is none through dotproxy either, and it says so.
    """
    query = dns.message.make_query("s65530.lab.example.", "TXT", want_dnssec=True)
    assert bind.ask(query.to_wire())[2] & 2
    message = dns.message.from_wire(program.ask(query.to_wire(), tcp=True))
    assert message.rcode() == dns.rcode.SERVFAIL
    (option,) = message.options
    assert "truncated, over a stream" in option.text


@pytest.mark.parametrize("options", [(), ("--transparent", "yes")], ids=["rebuilt", "transparent"])
def test_udp_truncation_empty_sends_no_records(options, bind, ca_file, tmp_path):
    """
    With ``udp_truncation = "empty"`` nobody gets more octets over UDP than it sent when an answer does not fit; over
    TCP everything comes.
    """
    options = ("--udp-truncation", "empty", *options)
    program = Proxy(tmp_path / "proxy.log", ca_file, (bind.upstream,), options, cache=True)
    program.start()
    try:
        for edns in (0, -1):
            query = dns.message.make_query("s65500.lab.example.", "TXT", use_edns=edns).to_wire()
            for _ in range(2):
                cut = program.ask(query)
                message = dns.message.from_wire(cut, raise_on_truncation=False)
                assert len(cut) == len(query)
                assert message.flags & dns.flags.TC
                assert message.edns == edns
            assert len(program.ask(query, tcp=True)) >= 65500
    finally:
        program.stop()
