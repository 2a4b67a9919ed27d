"""
Messages no library would make, and what the RFCs say comes back: dotproxy from outside, a real server behind it.
"""

import socket
import struct
import time

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from dotproxy.wire.edns import opt_record
from tests.integration.programs import Proxy, free_port, read_message, run
from tests.integration.servers import ZONE, Bind, Unbound

SIXTY = [f"10.9.8.{n}" for n in range(60)]
CONFORMANCE_ZONE = f"""{ZONE}
svc HTTPS 1 . alpn=h2 port=8443 ipv4hint=192.0.2.1
svc SVCB 0 www
big1k TXT {" ".join(['"' + "k" * 250 + '"'] * 4)}
big4k TXT {" ".join(['"' + "k" * 250 + '"'] * 16)}
{chr(10).join(f"sixty A {address}" for address in SIXTY)}
\\200\\255bin A 192.0.2.4
{"l" * 63}.{"m" * 63}.{"n" * 63} A 192.0.2.5
"""
GOOD = dns.message.make_query("www.lab.example.", "A", id=0x1234)
QUESTION = GOOD.to_wire()[12:]
OPT = bytes.fromhex("00 0029 04d0 00000000 0000")
DO_OPT = bytes.fromhex("00 0029 04d0 00008000 0000")

#: Of what cannot be parsed, what has an OPT that can be read.
WITH_AN_OPT = ("two OPTs", "OPT among the answers", "an option past its OPT")


@pytest.fixture(scope="module")
def stack(authority, ca_file, tmp_path_factory):
    """
    BIND, dotproxy in front of it, for all of these tests.
    """
    folder = tmp_path_factory.mktemp("conformance")
    server = Bind(folder, authority.issue(["dot.test", "127.0.0.1"]), zone=CONFORMANCE_ZONE)
    server.start()
    program = Proxy(folder / "proxy.log", ca_file, (server.upstream,), ("--udp-max-size", "4500"))
    program.start()
    yield server, program
    program.stop()
    assert "Traceback" not in program.said()
    server.stop()


def message(flags: int, counts: tuple[int, int, int, int], body: bytes = b"") -> bytes:
    """
    A message with this header.
    """
    return struct.pack("!6H", 0x1234, flags, *counts) + body


def still_answers(program) -> None:
    """
    The next good question is answered.
    """
    assert dns.message.from_wire(program.ask(GOOD.to_wire())).answer[0][0].address == "192.0.2.1"


@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 5, 6, 7, 15])
def test_other_opcodes_are_notimp(opcode, tcp, stack):
    """
    Every opcode but QUERY is NOTIMP, with the opcode as it came, also if nothing follows the header: IQUERY, STATUS,
    NOTIFY (RFC 1996), UPDATE (RFC 2136 §6), DSO (RFC 8490 §9.4) and those to come (RFC 8906 §3.1.4).  Whatever
    flags came, none but QR comes back, since the others are defined for QUERY alone (RFC 1035 §4.1.1); an OPT does if one
    came, with its DO (RFC 6891 §6.1.1, RFC 3225 §3).
    """
    _, program = stack
    for flags in (0, 0x0100, 0x0010, 0x07F0):
        for body, opts, do in ((b"", 0, 0), (QUESTION, 0, 0), (QUESTION + OPT, 1, 0), (QUESTION + DO_OPT, 1, 0x8000)):
            reply = program.ask(message(opcode << 11 | flags, (int(bool(body)), 0, 0, opts), body), tcp=tcp)
            assert struct.unpack_from("!HH", reply) == (0x1234, 0x8000 | opcode << 11 | 4)
            assert reply[12:] == body[: len(QUESTION)] + (opt_record(1232, 0, do) if opts else b"")
    still_answers(program)


@pytest.mark.parametrize("wire", [b"", b"\0", GOOD.to_wire()[:11], message(0x8180, (1, 0, 0, 0), QUESTION)])
def test_short_messages_and_responses_are_ignored(wire, stack):
    """
    What is shorter than a header, or a response, is never answered (RFC 1035 §7.3), and does not reach the upstream,
    which would close the connection that others use.
    """
    _, program = stack
    for _ in range(10 * program.workers):  # each of several is connected
        assert program.ask(GOOD.to_wire(), tcp=True)
    connected = program.said().count("connected to")
    with pytest.raises(TimeoutError):
        program.ask(wire, timeout=0.3)
    with socket.create_connection((program.host, program.port), 10) as client:
        client.sendall(struct.pack("!H", len(wire)) + wire + struct.pack("!H", len(GOOD.to_wire())) + GOOD.to_wire())
        assert read_message(client)[:2] == b"\x12\x34"
    assert program.said().count("connected to") == connected


RUBBISH = {
    "two questions (RFC 9619 §4)": message(0x100, (2, 0, 0, 0), QUESTION * 2),
    "no question (RFC 9619 §4, RFC 7873 §5.4)": message(0x100, (0, 0, 0, 0)),
    "two OPTs (RFC 6891 §6.1.1)": message(0x100, (1, 0, 0, 2), QUESTION + OPT * 2),
    "OPT among the answers (RFC 6891 §6.1.1)": message(0x100, (1, 1, 0, 0), QUESTION + OPT),
    "OPT below a name (RFC 6891 §6.1.2)": message(0x100, (1, 0, 0, 1), QUESTION + b"\1x" + OPT),
    "an option past its OPT (RFC 6891 §7)": message(0x100, (1, 0, 0, 1), QUESTION + OPT[:-2] + b"\0\4\0\3\0\1"),
    "a label of an unknown type (RFC 1035 §3.1)": message(0x100, (1, 0, 0, 0), b"\x80abc\0\0\1\0\1"),
    "a pointer in the question (RFC 1035 §4.1.4)": message(0x100, (1, 0, 0, 0), b"\xc0\x0c\0\1\0\1"),
    "a question cut short (RFC 1035 §4.1.2)": message(0x100, (1, 0, 0, 0), QUESTION[:-1]),
    "a record that is not there (RFC 1035 §4.1.3)": message(0x100, (1, 0, 0, 1), QUESTION),
}


@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
@pytest.mark.parametrize("what", RUBBISH)
def test_malformed_queries_are_formerr(what, tcp, stack):
    """
    It is FORMERR at once, under its ID, in no more octets than were sent and an OPT (RFC 1035 §4.1.1, RFC 9619 §4,
    RFC 5625 §6.3), and with an OPT if one could be read (RFC 6891 §6.1.1 and §7).
    """
    _, program = stack
    reply = program.ask(RUBBISH[what], tcp=tcp)
    assert reply[:2] == b"\x12\x34"
    assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR
    assert (dns.message.from_wire(reply).edns == 0) == what.startswith(WITH_AN_OPT)
    assert len(reply) <= len(RUBBISH[what]) + len(OPT)
    still_answers(program)


def test_octets_after_the_message_are_ignored(stack):
    """
    They are passed over (RFC 5625 §4.1: not refused for what is only odd).
    """
    _, program = stack
    reply = dns.message.from_wire(program.ask(GOOD.to_wire() + b"junk"))
    assert reply.answer[0][0].address == "192.0.2.1"


@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
def test_header_flags_of_responses(tcp, stack):
    """
    Whatever flags a question has, it is answered; of those in the answer Z is clear (RFC 5625 §4.1, RFC 8906 §3.1.3),
    RD is the question's (RFC 1035 §4.1.1), and so is CD (RFC 4035 §3.2.2).
    """
    _, program = stack
    for flags in (0, 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010, 0x07F0):
        reply = program.ask(message(flags, (1, 0, 0, 0), QUESTION), tcp=tcp)
        (answered,) = struct.unpack_from("!H", reply, 2)
        assert answered & 0x8000
        assert not answered & 0x0040
        assert answered & 0x0110 == flags & 0x0110
        assert dns.message.from_wire(reply).answer[0][0].address == "192.0.2.1"


@pytest.mark.parametrize("options", [(), ("--transparent", "yes")], ids=["default", "transparent"])
def test_tc_in_a_query_is_cleared(options, serve, proxy):
    """
    TC means something in responses alone (RFC 1035 §4.1.1): Unbound refuses a question that has it set, so it goes
    out without (RFC 5625 §4.1: nothing is refused for what is only odd).
    """
    server = serve(Unbound)
    program = proxy(server.upstream, options=options)
    odd = message(0x300, (1, 0, 0, 0), QUESTION)
    assert server.ask(odd)[3] & 15 == dns.rcode.FORMERR
    for tcp in (False, True):
        reply = dns.message.from_wire(program.ask(odd, tcp=tcp))
        assert (reply.flags & dns.flags.TC, reply.answer[0][0].address) == (0, "192.0.2.1")


def test_every_type_and_class_is_forwarded(stack):
    """
    Every type and class is asked, known or not, meta types among them, and the server's own rcode comes back
    (RFC 5625 §4.3, RFC 3597 §3, RFC 8906 §3.1.1); SVCB and HTTPS records come as they are (RFC 9460 §2.2).
    """
    server, program = stack
    asked = [
        ("unk", "TYPE65280", "IN"),
        ("svc", "HTTPS", "IN"),
        ("svc", "SVCB", "IN"),
        ("www", "TYPE249", "IN"),
        ("www", "ANY", "IN"),
        ("www", "TYPE253", "IN"),
    ]
    asked += [("www", "A", "HS"), ("www", "A", "CLASS65280"), ("www", "A", "ANY"), ("version.bind.", "TXT", "CH")]
    for name, rtype, rclass in asked:
        query = dns.message.make_query(name if name.endswith(".") else f"{name}.lab.example.", rtype, rclass)
        direct = dns.message.from_wire(server.ask(query.to_wire()))
        for tcp in (False, True):
            through = dns.message.from_wire(program.ask(query.to_wire(), tcp=tcp))
            if rtype == "ANY" and not tcp:
                assert [rrset.rdtype for rrset in through.answer] == [dns.rdatatype.HINFO]  # RFC 8482 §4.2
            else:
                assert (through.rcode(), through.answer) == (direct.rcode(), direct.answer)


def test_every_name_is_forwarded_as_spelled(stack):
    """
    Any octets may be in a label, and a name may be 255 of them; a question comes back as it was spelled
    (RFC 2181 §11, RFC 4343 §4.1, RFC 1035 §2.3.4).
    """
    _, program = stack
    long_name = f"{'l' * 63}.{'m' * 63}.{'n' * 63}.lab.example."
    names = ["a\\000\\255\\..b.lab.example.", "\\200\\255bin.lab.example.", long_name, "wWw.LAB.exAMple."]
    names.append("x" * 63 + "." + "y" * 63 + "." + "z" * 63 + "." + "w" * 49 + ".lab.example.")
    for name in names:
        query = dns.message.make_query(name, "A").to_wire()
        reply = program.ask(query)
        assert reply[12 : len(query)] == query[12:]
        assert dns.message.from_wire(reply).rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)


def test_edns_versions_flags_and_options(stack):
    """
    EDNS is taken (RFC 5625 §4.4.2); another version is BADVERS, in version 0 (RFC 6891 §6.1.3); options and flags
    nobody knows are neither an error nor echoed (RFC 6891 §6.1.2 and §6.1.4, RFC 8906 §3.2.3 and §3.2.4); DO comes back,
    in BADVERS, too (RFC 3225 §3).
    """
    _, program = stack
    for flags, do in ((0, 0), (0x8000, 0x8000), (0x80FF, 0x8000)):
        query = dns.message.make_query("www.lab.example.", "A", use_edns=1, ednsflags=flags)
        reply = dns.message.from_wire(program.ask(query.to_wire()))
        assert (reply.rcode(), reply.edns, reply.question) == (dns.rcode.BADVERS, 0, GOOD.question)
        assert reply.ednsflags & 0xFFFF == do
    query = dns.message.make_query("www.lab.example.", "A", use_edns=0, ednsflags=0x80FF)
    query.use_edns(0, ednsflags=0x80FF, options=[dns.edns.GenericOption(65001, b"x")])
    reply = dns.message.from_wire(program.ask(query.to_wire()))
    assert (reply.rcode(), reply.edns, reply.ednsflags, reply.options) == (dns.rcode.NOERROR, 0, 0x8000, ())
    assert dns.message.from_wire(program.ask(dns.message.make_query("www.lab.example.", "A").to_wire())).edns == -1


def test_hop_by_hop_options_are_not_forwarded(stack):
    """
    A client's cookie, padding and subnet come back from nobody (RFC 7873 §5, RFC 7830 §6, RFC 7871 §7.2.2); a TCP
    client that asks is told our own idle timeout, a UDP client is not (RFC 7828 §3.2.2 and §4).
    """
    _, program = stack
    options = [
        dns.edns.GenericOption(10, b"12345678"),
        dns.edns.GenericOption(11, b""),
        dns.edns.GenericOption(12, bytes(64)),
    ]
    query = dns.message.make_query("www.lab.example.", "A", use_edns=0, options=options).to_wire()
    assert dns.message.from_wire(program.ask(query)).options == ()
    (keepalive,) = dns.message.from_wire(program.ask(query, tcp=True)).options
    assert (keepalive.otype, keepalive.to_wire()) == (11, (100).to_bytes(2, "big"))


def sized(name: str, size: int | None) -> bytes:
    """
    A question for TXT by a client that takes this much over UDP.
    """
    query = dns.message.make_query(name, "TXT", use_edns=-1 if size is None else 0, payload=size or 0)
    return query.to_wire()


def test_responses_keep_to_the_clients_size(stack):
    """
    An answer that fits what the client takes is not truncated (RFC 5625 §4.4 and §4.4.3, RFC 6891 §6.2.6), one that
    does not has TC and is no longer (RFC 6891 §6.2.3 and §7); over TCP size does not matter (RFC 8906 §3.2.7).
    """
    _, program = stack
    for name, size, truncated in (
        ("big1k.lab.example.", None, True),
        ("big1k.lab.example.", 100, True),
        ("big1k.lab.example.", 512, True),
        ("big1k.lab.example.", 1232, False),
        ("big4k.lab.example.", 1232, True),
        ("big4k.lab.example.", 4500, False),
        ("big4k.lab.example.", 65535, False),
        ("huge.lab.example.", 65535, True),
    ):
        reply = program.ask(sized(name, size))
        assert bool(reply[2] & 2) == truncated, (name, size)
        assert len(reply) <= max(size or 512, 512)
        assert (dns.message.from_wire(reply, raise_on_truncation=False).edns == 0) == (size is not None)
        whole = program.ask(sized(name, size), tcp=True)
        assert not whole[2] & 2
        assert dns.message.from_wire(whole).answer


def test_truncated_responses_hold_the_records_that_fit(stack):
    """
    A stub without TCP can use as many whole records as fit 512 octets (RFC 2181 §9).
    """
    _, program = stack
    query = dns.message.make_query("sixty.lab.example.", "A").to_wire()
    reply = dns.message.from_wire(program.ask(query), raise_on_truncation=False)
    assert reply.flags & dns.flags.TC
    addresses = {rdata.address for rdata in reply.answer[0]}
    assert len(addresses) == (512 - len(query)) // 16
    assert addresses < set(SIXTY)


def test_truncated_responses_keep_options(stack):
    """
    The server's name is told in a truncated answer as in a whole one (RFC 5001 §2.3), beside the records that fit.
    """
    server, program = stack
    told = dns.edns.NSIDOption(b"lab server")
    for name, records in (("big4k.lab.example.", False), ("sixty.lab.example.", True)):
        query = dns.message.make_query(name, "TXT" if not records else "A", use_edns=0, payload=512)
        query.use_edns(0, 0, 512, options=[dns.edns.NSIDOption(b"")])
        assert told in dns.message.from_wire(server.ask(query.to_wire())).options
        reply = program.ask(query.to_wire())
        cut = dns.message.from_wire(reply, raise_on_truncation=False)
        assert (bool(cut.flags & dns.flags.TC), cut.options, bool(cut.answer)) == (True, (told,), records)
        assert len(reply) <= 512
        assert dns.message.from_wire(program.ask(query.to_wire(), tcp=True)).options == (told,)
    shown = run(
        *("dig", "@127.0.0.1", "-p", str(program.port), "+tries=1", "+nsid", "+ignore", "+bufsize=1232"),
        *("big4k.lab.example", "TXT"),
    )
    assert 'NSID: 6c 61 62 20 73 65 72 76 65 72 ("lab server")' in shown
    assert " tc" in shown


def test_query_may_come_octet_by_octet(stack):
    """
    A question over TCP may come an octet at a time (RFC 7766 §8), and 200 clients may stay connected and say nothing
    (RFC 7766 §6.2.2, RFC 9210 §4.2).
    """
    _, program = stack
    idle = [socket.create_connection((program.host, program.port), 10) for _ in range(200)]
    with socket.create_connection((program.host, program.port), 10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = GOOD.to_wire()
        for octet in struct.pack("!H", len(wire)) + wire:
            client.send(bytes((octet,)))
            time.sleep(0.002)
        assert read_message(client)[:2] == b"\x12\x34"
    for client in idle:
        client.close()


def test_client_that_never_reads_delays_nobody(stack):
    """
    500 large answers for a client that reads none of them hold up nobody else (RFC 1035 §4.2.2).
    """
    _, program = stack
    query = dns.message.make_query("huge.lab.example.", "TXT").to_wire()
    with socket.create_connection((program.host, program.port), 10) as client:
        client.sendall((struct.pack("!H", len(query)) + query) * 500)
        for _ in range(20):
            still_answers(program)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    still_answers(program)


def test_special_use_names_are_answered_locally(serve, proxy):
    """
    The server hears of none of them (RFC 6761 §6, RFC 6762 §22.1, RFC 7686 §2, RFC 8375 §4, RFC 9462 §6.4, RFC 9476 §2,
    RFC 6303 §3, RFC 6762 Appendix G); negative answers have an SOA.
    """
    server = serve(Unbound)
    program = proxy(server.upstream, cache=True)
    expected = {
        ("localhost.", "A"): "127.0.0.1",
        ("x.LocalHost.", "AAAA"): "::1",
        ("localhost.", "MX"): dns.rcode.NOERROR,
        ("x.invalid.", "A"): dns.rcode.NXDOMAIN,
        ("x.test.", "A"): dns.rcode.NXDOMAIN,
        ("x.onion.", "A"): dns.rcode.NXDOMAIN,
        ("printer.local.", "A"): dns.rcode.NXDOMAIN,
        ("x.alt.", "A"): dns.rcode.NXDOMAIN,
        ("nas.lan.", "A"): dns.rcode.NXDOMAIN,
        ("mail.corp.", "MX"): dns.rcode.NXDOMAIN,
        ("internal.", "A"): dns.rcode.NXDOMAIN,
        ("x.home.arpa.", "A"): dns.rcode.NXDOMAIN,
        ("_dns.resolver.arpa.", "SVCB"): dns.rcode.NOERROR,
        ("1.0.0.10.in-addr.arpa.", "PTR"): dns.rcode.NXDOMAIN,
    }
    for (name, rtype), what in expected.items():
        for tcp in (False, True):
            reply = dns.message.from_wire(program.ask(dns.message.make_query(name, rtype).to_wire(), tcp=tcp))
            if isinstance(what, str):
                assert reply.answer[0][0].address == what
            else:
                assert (reply.rcode(), reply.answer) == (what, [])
                assert reply.authority[0].rdtype == 6
    assert server.questions == []


def test_private_top_level_domain_is_forwarded_if_configured(serve, proxy):
    """
    One setting has an upstream asked that serves it; the other ones stay here (RFC 6762 Appendix G).
    """
    server = serve(Unbound)
    program = proxy(server.upstream, cache=True, options=("--forward-special", "corp"))
    for name in ("mail.corp.", "nas.lan."):
        program.ask(dns.message.make_query(name, "A").to_wire())
    asked = " ".join(server.questions)
    assert " mail.corp. A IN" in asked
    assert "nas.lan" not in asked


def test_wildcard_listener_answers_from_the_queried_address(serve, proxy):
    """
    The answer comes from the address the question went to (RFC 2181 §4.1 and §4.2).
    """
    port = free_port()
    program = proxy(serve().upstream, listen=f"0.0.0.0:{port}", cache=True)
    program.port = port
    for host in ("127.0.0.1", "127.0.77.99"):
        program.host = host
        assert dns.message.from_wire(program.ask(GOOD.to_wire())).answer
