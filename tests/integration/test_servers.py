"""
Every real server behind dotproxy, every real client in front of it.
"""

import threading

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import pytest

from tests.integration.programs import run
from tests.integration.servers import LONG_TXT, TXT_STRINGS, Bind, Dnsdist, KnotResolver, Nsd, Unbound

SERVERS = [Unbound, Nsd, Bind, KnotResolver, Dnsdist]
each_server = pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.__name__)


@each_server
def test_every_client_over_both_transports(kind, serve, proxy):
    """
    dig, kdig and drill get the right answer over UDP and over TCP.
    """
    server = serve(kind)
    program = proxy(server.upstream)
    port = str(program.port)
    asks = [
        ("dig", "@127.0.0.1", "-p", port, "+short", "+tries=1", "www.lab.example", "A"),
        ("dig", "@127.0.0.1", "-p", port, "+short", "+tries=1", "+tcp", "www.lab.example", "A"),
        ("kdig", "@127.0.0.1", "-p", port, "+short", "www.lab.example", "A"),
        ("kdig", "@127.0.0.1", "-p", port, "+short", "+tcp", "www.lab.example", "A"),
        ("drill", "-Q", "-p", port, "@127.0.0.1", "www.lab.example", "A"),
        ("drill", "-Q", "-t", "-p", port, "@127.0.0.1", "www.lab.example", "A"),
    ]
    for command in asks:
        assert run(*command).split() == ["192.0.2.1"], command
    assert "down:" not in program.said()


@each_server
def test_a_long_answer(kind, serve, proxy):
    """
    A TXT record of 4,212 octets is truncated over UDP, question and OPT kept, and comes whole over TCP, as the
    server itself gives it (RFC 5625 §4.4, RFC 6891 §7).
    """
    server = serve(kind)
    program = proxy(server.upstream)
    for edns in (True, False):
        query = dns.message.make_query("long.lab.example.", "TXT", use_edns=0 if edns else -1).to_wire()
        cut = program.ask(query)
        message = dns.message.from_wire(cut, raise_on_truncation=False)
        assert message.flags & dns.flags.TC
        assert len(cut) <= (1232 if edns else 512)
        assert (len(message.question), message.edns) == (1, 0 if edns else -1)
        whole = program.ask(query, tcp=True)
        assert dns.message.from_wire(whole).answer == dns.message.from_wire(server.ask(query)).answer
        (rdata,) = next(iter(dns.message.from_wire(whole).answer))
        assert [text.decode() for text in rdata.strings] == TXT_STRINGS
        assert len(rdata.to_wire()) == LONG_TXT
    assert f'"{TXT_STRINGS[-1]}"' in run(
        "dig", "@127.0.0.1", "-p", str(program.port), "+short", "long.lab.example", "TXT"
    )


def varied_queries():
    """
    Questions of every kind that has to pass untouched.
    """
    names = (
        "www.lab.example.",
        "wWw.LaB.eXaMpLe.",
        "alias.lab.example.",
        "nothing.lab.example.",
        "a\\000b.lab.example.",
    )
    for name in names:
        for rtype in ("A", "AAAA", "MX", "TYPE65280"):
            yield dns.message.make_query(name, rtype)
    yield dns.message.make_query("mx.lab.example.", "MX")
    yield dns.message.make_query("unk.lab.example.", "TYPE65280")
    yield dns.message.make_query("x.wild.lab.example.", "A")
    yield dns.message.make_query("lab.example.", "NS")
    yield dns.message.make_query("www.lab.example.", "A", rdclass="CH")
    yield dns.message.make_query("www.lab.example.", "ANY")
    for flags in (0, dns.flags.RD, dns.flags.RD | dns.flags.CD, dns.flags.RD | dns.flags.AD, 0x40, dns.flags.RD | 0x40):
        yield dns.message.make_query("www.lab.example.", "A", flags=flags)
    for size in (512, 1232, 4096):
        yield dns.message.make_query("www.lab.example.", "A", use_edns=0, payload=size, want_dnssec=True)
        yield dns.message.make_query("www.lab.example.", "A", use_edns=0, payload=size)


@pytest.mark.parametrize("kind", [Unbound, Nsd, Bind], ids=lambda kind: kind.__name__)
def test_nothing_but_the_id_changes(kind, serve, proxy):
    """
    Whatever is asked, the answer through a transparent dotproxy is the server's own but for the ID (RFC 5625 §3).
    """
    server = serve(kind)
    program = proxy(server.upstream, options=("--transparent", "yes"))
    count = 0
    for query in varied_queries():
        wire = query.to_wire()
        direct = server.ask(wire)
        for tcp in (False, True):
            through = program.ask(wire, tcp=tcp)
            assert through[:2] == wire[:2]
            assert through[2:] == direct[2:], query
        count += 1
    assert count > 30


def test_200_clients_at_once(serve, proxy):
    """
    200 clients at the same time, on both transports, all get their own answer.
    """
    server = serve()
    program = proxy(server.upstream)
    wrong: list[object] = []

    def client(number: int) -> None:
        query = dns.message.make_query(f"n{number}.wild.lab.example.", "A")
        try:
            for _ in range(5):
                reply = dns.message.from_wire(program.ask(query.to_wire(), tcp=number % 2 == 0))
                if not query.is_response(reply) or reply.answer[0][0].address != "192.0.2.99":
                    wrong.append(reply)
        except (OSError, EOFError, dns.exception.DNSException) as error:
            wrong.append((number, error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


def test_dnsperf_loses_nothing(serve, proxy, tmp_path):
    """
    Fifty clients with 500 questions outstanding lose none of them, over one connection to the upstream.
    """
    server = serve()
    program = proxy(server.upstream)
    questions = tmp_path / "questions"
    questions.write_text("".join(f"n{number}.wild.lab.example A\n" for number in range(2000)))
    told = run(
        "dnsperf", "-s", "127.0.0.1", "-p", str(program.port), "-d", str(questions), "-c", "50", "-q", "500", "-l", "3"
    )
    figures = dict(line.strip().split(":", 1) for line in told.splitlines() if ":" in line)
    assert figures["Queries lost"].split()[0] == "0", told
    assert figures["Response codes"].split() == ["NOERROR", figures["Queries completed"].split()[0], "(100.00%)"], told
    assert program.said().count("connected to") == 1


def test_questions_are_padded_and_clients_do_not_see_it(serve, proxy):
    """
    With a server that pads its answers to padded questions, no client gets padding, and one without EDNS no OPT
    (RFC 7830 §6, RFC 6891 §7).
    """
    program = proxy(serve(Unbound).upstream)
    for edns in (-1, 0):
        query = dns.message.make_query("www.lab.example.", "A", use_edns=edns)
        for tcp in (False, True):
            reply = dns.message.from_wire(program.ask(query.to_wire(), tcp=tcp))
            assert (reply.edns, list(reply.options), len(reply.answer)) == (edns, [], 1)
    assert "PADDING" not in run("kdig", "@127.0.0.1", "-p", str(program.port), "+padding=128", "www.lab.example", "A")
