"""
Zone transfers from real servers, by real clients.
"""

import signal
import socket
import struct
from collections import Counter

import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.tsig
import dns.xfr
import dns.zone
import pytest

from tests.integration.programs import read_message, run, wait_until
from tests.integration.servers import TSIG_KEY, TSIG_SECRET, ZONE, Bind, Nsd, Unbound


def zone_of(hosts: int) -> str:
    """
    Return the zone with so many more records.
    """
    return ZONE + "".join(f"host{n} A 10.{n >> 16}.{n >> 8 & 255}.{n & 255}\n" for n in range(hosts))


large_zones = pytest.mark.parametrize("hosts", [5000, pytest.param(50000, marks=pytest.mark.soak)])
each_server = pytest.mark.parametrize("kind", [Nsd, Bind], ids=lambda kind: kind.__name__)


def transferred(program, **options) -> Counter:
    """
    The records of the zone, as dnspython gets them through dotproxy.
    """
    records: Counter = Counter()
    messages = dns.query.xfr(program.host, "lab.example.", port=program.port, timeout=20, lifetime=60, **options)
    for message in messages:
        for rrset in message.answer:
            records.update((rrset.name, rrset.rdtype, rdata.to_text()) for rdata in rrset)
    return records


@large_zones
@each_server
def test_large_zone_arrives_whole(kind, hosts, serve, proxy):
    """
    A zone of many records arrives whole, and is what the zone file says (RFC 5936 §2.2); other questions, on the
    same connection and over UDP, are answered meanwhile (RFC 9103 §6.3).
    """
    text = zone_of(hosts)
    program = proxy(serve(kind, zone=text).upstream)
    expected = dns.zone.from_text(text, dns.name.from_text("lab.example."), relativize=False)
    wanted = Counter(
        (name, rdataset.rdtype, rdata.to_text())
        for name, rdataset in expected.iterate_rdatasets()
        for rdata in rdataset
    )
    (soa,) = [record for record in wanted if record[1] == dns.rdatatype.SOA]
    wanted[soa] += 1
    zone = dns.message.make_query("lab.example.", "AXFR", id=1).to_wire()
    www = dns.message.make_query("www.lab.example.", "A", id=2).to_wire()
    got: Counter = Counter()
    kinds: Counter = Counter()
    with socket.create_connection((program.host, program.port), 30) as client:
        client.sendall(struct.pack("!H", len(zone)) + zone + struct.pack("!H", len(www)) + www)
        while got[soa] < 2 or not kinds[2]:
            wire = read_message(client)
            message = dns.message.from_wire(wire, xfr=True, one_rr_per_rrset=True)
            kinds[message.id] += 1
            if message.id == 1:
                got.update((rrset.name, rrset.rdtype, rrset[0].to_text()) for rrset in message.answer)
                if kinds[1] == 1:
                    assert program.ask(www)[:2] == b"\0\2"
    assert got == wanted
    assert kinds[1] > hosts / 2500
    assert kinds[2] == 1


@each_server
def test_dig_transfers_every_record(kind, serve, proxy):
    """
    dig gets as many records through dotproxy as there are, with EDNS and without (RFC 5936 §2.2).
    """
    program = proxy(serve(kind).upstream)
    records = sum(1 for line in ZONE.splitlines() if line and not line.startswith("$")) + 1
    for edns in ("+edns", "+noedns"):
        told = run("dig", "@127.0.0.1", "-p", str(program.port), "lab.example", "AXFR", edns, "+nocmd", "+onesoa")
        assert "Transfer failed" not in told
        lines = [line for line in told.splitlines() if line and not line.startswith(";")]
        assert len(lines) == records - 1


@large_zones
def test_signed_transfers_verify(hosts, serve, proxy):
    """
    A transfer signed with TSIG verifies at the client, every message of it (RFC 8945 §5.5, §5.3.1).
    """
    program = proxy(serve(Bind, zone=zone_of(hosts)).upstream)
    keyring = {dns.name.from_text(TSIG_KEY): dns.tsig.Key(TSIG_KEY, TSIG_SECRET, "hmac-sha256")}
    records = transferred(program, keyring=keyring, keyname=TSIG_KEY, keyalgorithm="hmac-sha256")
    assert records.total() > hosts


def test_ixfr_is_forwarded(serve, proxy):
    """
    What changed since a serial is passed on as the server sends it, and one that is current is told so
    (RFC 1995 §4).
    """
    server = serve(Bind)
    program = proxy(server.upstream)
    before = dns.zone.from_text(ZONE, dns.name.from_text("lab.example."), relativize=False)
    (serial,) = [rdata.serial for rdata in before.get_rdataset("lab.example.", "SOA")]

    def ixfr(since: int) -> list[str]:
        told = run("dig", "@127.0.0.1", "-p", str(program.port), "lab.example", f"IXFR={since}", "+nocmd")
        return [line.split()[3] for line in told.splitlines() if line and not line.startswith(";")]

    assert ixfr(serial) == ["SOA"]
    changed = ZONE.replace(f" {serial} ", f" {serial + 1} ") + "new A 192.0.2.77\n"
    assert changed.count(f" {serial + 1} ")
    (server.folder / "zone").write_text(changed)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: f"serial {serial + 1}" in server.said(), "the server has the new zone")
    assert ixfr(serial) == ["SOA", "SOA", "SOA", "A", "SOA"]
    assert ixfr(serial + 1) == ["SOA"]


def test_transfer_is_retried_at_another_upstream(serve, proxy):
    """
    Its refusal is what the client is told, if nobody has the zone; the upstream that has it is found (RFC 5936 §2.2).
    """
    without = serve(Unbound)
    refused = proxy(without.upstream)
    told = run("dig", "@127.0.0.1", "-p", str(refused.port), "lab.example", "AXFR")
    assert "Transfer failed" in told
    both = proxy(without.upstream, serve(Nsd).upstream)
    assert transferred(both).total() > 100


def test_unread_transfer_delays_nobody(serve, proxy):
    """
    It holds nobody up: the zone waits at its server, and others are answered; so many transfers and no more.
    """
    program = proxy(serve(Nsd, zone=zone_of(50000)).upstream)
    query = dns.message.make_query("lab.example.", "AXFR").to_wire()
    clients = []
    for _ in range(4):
        client = socket.create_connection((program.host, program.port), 30)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(struct.pack("!H", len(query)) + query)
        clients.append(client)
    for client in clients:
        assert client.recv(1)
    www = dns.message.make_query("www.lab.example.", "A").to_wire()
    assert program.ask(www)
    if program.workers == 1:  # each of several takes four, and which of them a client comes to is chance
        too_many = dns.message.from_wire(program.ask(query, tcp=True))
        assert too_many.rcode() == 2
    for client in clients:
        client.close()
    wait_until(lambda: dns.message.from_wire(program.ask(query, tcp=True)).rcode() == 0, "a transfer is possible again")
