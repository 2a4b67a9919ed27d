"""
Every real server behind dotproxy, every real client in front of it.
"""

import socket
import struct
import threading
from pathlib import Path

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import pytest

from dotproxy.policy.connection_limits import MAX_CONNECTIONS
from tests.integration.programs import connections_to, read_message, run, wait_until
from tests.integration.servers import (
    HUGE_RECORDS,
    LONG_TXT,
    TXT_STRINGS,
    ZONE,
    Backend,
    Bind,
    Dnsdist,
    KnotResolver,
    Nsd,
    Server,
    Unbound,
)

SERVERS = [Unbound, Nsd, Bind, KnotResolver, Dnsdist]
each_server = pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.__name__)


@each_server
def test_clients_get_the_response_over_both_transports(kind, serve, proxy):
    """
    dig, kdig and drill get the right answer over UDP and over TCP, whichever they try first (RFC 7766 §5, RFC 9210 §3).
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
def test_long_response_is_truncated_over_udp_and_whole_over_tcp(kind, serve, proxy):
    """
    A TXT record of 4,212 octets is truncated over UDP, question and OPT kept, and comes whole over TCP, as the
    server itself gives it (RFC 5625 §4.4, RFC 6891 §7, RFC 9715 §3.1).
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
    shown = run("dig", "@127.0.0.1", "-p", str(program.port), "+short", "long.lab.example", "TXT")
    assert " ".join(f'"{text}"' for text in TXT_STRINGS) in shown


@each_server
def test_huge_response_is_whole_over_tcp(kind, serve, proxy):
    """
    61,000 octets come whole over TCP, every record of them (RFC 7766 §8).
    """
    program = proxy(serve(kind).upstream)
    for edns in (-1, 0):
        whole = program.ask(dns.message.make_query("huge.lab.example.", "TXT", use_edns=edns).to_wire(), tcp=True)
        assert len(whole) > 60000
        (answer,) = dns.message.from_wire(whole).answer
        texts = {tuple(text.decode() for text in rdata.strings) for rdata in answer}
        assert texts == set(HUGE_RECORDS)


def varied_queries():
    """
    Questions of every kind that has to pass untouched.
    """
    names = (
        "www.lab.example.",
        "wWw.LaB.eXaMpLe.",
        "alias.lab.example.",
        "nothing.lab.example.",
        "a\\000\\255\\.b.lab.example.",
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
    for option in (dns.edns.GenericOption(65001, b"unknown"), dns.edns.GenericOption(3, b"")):
        yield dns.message.make_query("www.lab.example.", "A", use_edns=0, options=[option])


def reads_like_one_of(through: dns.message.Message, direct: list[dns.message.Message]) -> bool:
    """
    Whether a message says what one of the others says, TTLs and all, OPT and order aside.
    """
    return any(
        (through.flags, through.rcode(), through.to_text().partition(";QUESTION")[2].lower())
        == (message.flags, message.rcode(), message.to_text().partition(";QUESTION")[2].lower())
        for message in direct
    )


def without_padding(reply: bytes) -> bytes:
    """
    A server's answer, whose OPT is its last record if it has one, without the padding that Knot Resolver gives all
    clients with EDNS over TLS.
    """
    if dns.message.from_wire(reply).edns < 0:
        return reply
    opt_at = reply.rindex(b"\0\0\x29")
    offset, kept = opt_at + 11, b""
    while offset < len(reply):
        code, size = struct.unpack_from("!HH", reply, offset)
        kept += reply[offset : offset + 4 + size] if code != 12 else b""
        offset += 4 + size
    return reply[: opt_at + 9] + struct.pack("!H", len(kept)) + kept


@each_server
def test_transparent_response_differs_in_id_and_padding_only(kind, serve, proxy):
    """
    Whatever is asked, the answer through a transparent dotproxy is the server's own but for the ID (RFC 5625 §3), and
    for padding, which is not for clients in the clear (RFC 7830 §6).
    """
    server = serve(kind)
    program = proxy(server.upstream, options=("--transparent", "yes", "--minimal-any", "no"))
    count = 0
    with server.asked_directly() as ask:
        for query in varied_queries():
            wire = query.to_wire()
            for tcp in (False, True):
                # A cache's TTL may go down between two questions: what it said before or says after will do.
                before, through, after = ask(wire), program.ask(wire, tcp=tcp), ask(wire)
                assert through[:2] == wire[:2]
                assert through[2:] in (without_padding(before)[2:], without_padding(after)[2:]), query
            count += 1
        long = dns.message.make_query("long.lab.example.", "TXT", use_edns=0).to_wire()
        before, through, after = ask(long), program.ask(long, tcp=True), ask(long)
        assert len(through) > LONG_TXT
        assert through[2:] in (without_padding(before)[2:], without_padding(after)[2:])
    assert count >= 40


@each_server
def test_refused_unknown_class_keeps_header_flags(kind, serve, proxy):
    """
    A refusal of an unknown class keeps the server's own header flags, also where the server leaves out the question
    and gets it put back (RFC 5625 §4.2, RFC 1035 §4.1.1).
    """
    server = serve(kind)
    program = proxy(server.upstream, options=("--transparent", "yes"))
    for rdclass in ("HS", "CLASS65280"):
        wire = dns.message.make_query("www.lab.example.", "A", rdclass=rdclass).to_wire()
        direct = server.ask(wire)
        if direct[4:6] == b"\0\0":
            assert direct[6:] == bytes(6)
            direct = direct[:4] + wire[4:]
        for tcp in (False, True):
            through = program.ask(wire, tcp=tcp)
            assert through == wire[:2] + direct[2:]


@each_server
def test_response_differs_in_edns_only(kind, serve, proxy):
    """
    With EDNS rebuilt on each hop the rest of an answer is the server's own: octet for octet to a client without
    EDNS, header and records to one with it (RFC 6891 §6.1.1).
    """
    server = serve(kind)
    program = proxy(server.upstream, options=("--minimal-any", "no"))
    with server.asked_directly() as ask:
        for query in varied_queries():
            wire = query.to_wire()
            for tcp in (False, True):
                before, through, after = ask(wire), program.ask(wire, tcp=tcp), ask(wire)
                assert through[:2] == wire[:2]
                if query.edns < 0:
                    assert through[2:] in (before[2:], after[2:]), query
                    continue
                message = dns.message.from_wire(through)
                assert message.edns == 0
                assert message.ednsflags == query.ednsflags
                assert reads_like_one_of(message, [dns.message.from_wire(before), dns.message.from_wire(after)]), query


@pytest.mark.parametrize("kind", [Unbound, Nsd, Bind, Dnsdist], ids=lambda kind: kind.__name__)
def test_server_closing_idle_connections_is_no_failure(kind, serve, proxy):
    """
    A server that closes what nobody uses is no failure: the next question is answered, and there is not a line
    of it in the log (RFC 7766 §6.2.3).
    """
    server = serve(kind, idle_timeout=1)
    program = proxy(server.upstream)
    said = []
    query = dns.message.make_query("www.lab.example.", "A")
    for _ in range(3):
        reply = dns.message.from_wire(program.ask(query.to_wire()))
        assert reply.answer[0][0].address == "192.0.2.1"
        said.append(program.said())
        wait_until(lambda: connections_to(server.port) == 0, "the server closes the connection")
    assert "connected to" in said[0]
    assert said[0] == said[1] == said[2] == program.said()


@each_server
def test_half_closed_client_gets_all_responses(kind, serve, proxy):
    """
    500 questions in one go over one TCP connection, which the client then closes for its part, are all answered,
    each with its own ID, before the proxy closes too (RFC 7766 §6.2.1.1, §6.2.4).
    """
    program = proxy(serve(kind).upstream)
    queries = {number: dns.message.make_query(f"n{number}.wild.lab.example.", "A", id=number) for number in range(500)}
    wires = [query.to_wire() for query in queries.values()]
    with socket.create_connection((program.host, program.port), 30) as client:
        client.sendall(b"".join(struct.pack("!H", len(wire)) + wire for wire in wires))
        client.shutdown(socket.SHUT_WR)
        for _ in wires:
            reply = dns.message.from_wire(read_message(client))
            assert queries.pop(reply.id).is_response(reply)
            assert reply.answer[0][0].address == "192.0.2.99"
        assert client.recv(1) == b""
    assert queries == {}


def test_200_clients_get_their_own_responses(serve, proxy):
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
    Fifty clients with 500 questions outstanding lose none of them, over one connection (of each worker) to the upstream,
    or as many as a slow one gets, if the machine is so busy that it is slow (RFC 7766 §6.2.2, RFC 7858 §3.3).
    """
    server: Server = serve(log_queries=False)  # which would be slow, and slow ones get more than one connection
    program = proxy(server.upstream, options=("--log-level", "debug"))
    questions = tmp_path / "questions"
    questions.write_text("".join(f"n{number}.wild.lab.example A\n" for number in range(2000)))
    told = run(
        "dnsperf", "-s", "127.0.0.1", "-p", str(program.port), "-d", str(questions), "-c", "50", "-q", "500", "-l", "3"
    )
    figures = dict(line.strip().split(":", 1) for line in told.splitlines() if ":" in line)
    assert figures["Queries lost"].split()[0] == "0", told
    assert figures["Response codes"].split() == ["NOERROR", figures["Queries completed"].split()[0], "(100.00%)"], told
    connected = program.said().count("connected to")  # at debug every connection has its line
    assert program.workers <= connected <= MAX_CONNECTIONS * program.workers
    assert connected == connections_to(server.port)  # none was cut


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


@pytest.mark.parametrize("options", [(), ("--transparent", "yes")], ids=["default", "transparent"])
def test_padding_stays_on_the_encrypted_hop(options, serve, proxy):
    """
    A client that sends padding gets none back, over UDP or TCP, whole or truncated, though the server pads its answer:
    no client is asked over an encrypted transport (RFC 7830 §6).
    """
    server = serve(Unbound)
    program = proxy(server.upstream, options=options)
    padding = dns.edns.GenericOption(12, bytes(40))
    for name, size in (("www.lab.example.", 1232), ("long.lab.example.", 512)):
        query = dns.message.make_query(name, "A" if size > 512 else "TXT", use_edns=0, payload=size, options=[padding])
        wire = query.to_wire()
        assert [option.otype for option in dns.message.from_wire(server.ask(wire)).options] == [12]
        for tcp in (False, True):
            reply = dns.message.from_wire(program.ask(wire, tcp=tcp), raise_on_truncation=False)
            assert (reply.rcode(), reply.edns, list(reply.options)) == (0, 0, [])
    shown = run("kdig", "@127.0.0.1", "-p", str(program.port), "+padding=128", "+tcp", "www.lab.example", "A")
    assert "NOERROR" in shown
    assert "PADDING" not in shown


class NsdWithCorp(Nsd):
    """
    NSD that serves a zone of a private top-level domain besides.
    """

    def write(self, config: str) -> Path:
        """
        Add the zone.
        """
        (self.folder / "corp").write_text(ZONE.replace("lab.example", "lab.corp") + "dot A 127.0.0.1\n")
        return super().write(f"{config}zone:\n    name: lab.corp\n    zonefile: corp\n")


def test_upstream_name_in_a_private_domain_is_looked_up(authority, serve, proxy):
    """
    An upstream's own name is looked up where the operator says, also if it is in ``corp``; what clients ask about it is
    answered here.
    """
    certificate = authority.issue(["dot.test", "dot.lab.corp", "127.0.0.1"])
    looks_up, named = serve(NsdWithCorp), serve(certificate=certificate)
    program = proxy(f"tls://dot.lab.corp:{named.port}", options=("--bootstrap", looks_up.upstream))
    reply = dns.message.from_wire(program.ask(dns.message.make_query("www.lab.example.", "A").to_wire()))
    assert reply.answer[0][0].address == "192.0.2.1"
    reply = dns.message.from_wire(program.ask(dns.message.make_query("dot.lab.corp.", "A").to_wire()))
    assert reply.rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("how", ["address", "tls", "udp"])
def test_upstream_name_is_looked_up_and_verified(how, authority, serve, proxy):
    """
    Its name is looked up by an upstream that is given by address, or by who was named for it, over TLS or in the
    clear, and then it is asked, and verified by that name.  (While it is looked up, the upstream given by address may
    be asked, and answers.)
    """
    zone = ZONE + "dot A 127.0.0.1\n"
    certificate = authority.issue(["dot.test", "dot.lab.example", "127.0.0.1"])
    looks_up, named = serve(Nsd, zone=zone), serve(certificate=certificate)
    spec = f"tls://dot.lab.example:{named.port}"
    if how == "address":
        program = proxy(spec, looks_up.upstream)
    elif how == "tls":
        program = proxy(spec, options=("--bootstrap", looks_up.upstream))
    else:
        with_plain = Backend(looks_up.folder)
        with_plain.start()
        program = proxy(spec, options=("--bootstrap", f"udp://127.0.0.1:{with_plain.port}"))

    def asked() -> int:
        reply = dns.message.from_wire(program.ask(dns.message.make_query("www.lab.example.", "A").to_wire()))
        assert reply.answer[0][0].address == "192.0.2.1"
        return len(named.questions)

    try:
        if how == "address":
            wait_until(asked, "a question to the upstream that was looked up")
        else:
            assert asked() == 1
        assert "verified as dot.lab.example" in program.said()
    finally:
        if how == "udp":
            with_plain.stop()
