"""
Where a zone transfer ends, with dnspython's own reader of transfers as the oracle.
"""

import contextlib
import random

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import dns.xfr
import dns.zone
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.errors import WireError
from dotproxy.wire.axfr import Transfer
from dotproxy.wire.message import parse_query

ORIGIN = dns.name.from_text("lab.test.")


def soa(serial: int) -> dns.rrset.RRset:
    """
    The zone's SOA.
    """
    return dns.rrset.from_text(ORIGIN, 60, "IN", "SOA", f"ns.lab.test. hostmaster.lab.test. {serial} 1 2 3 4")


def host(number: int) -> dns.rrset.RRset:
    """
    One of the zone's other records.
    """
    return dns.rrset.from_text(f"h{number}.lab.test.", 60, "IN", "A", f"192.0.2.{number % 256}")


def whole(serial: int, hosts: range) -> list[dns.rrset.RRset]:
    """
    A zone, as AXFR sends it.
    """
    apex = dns.rrset.from_text(ORIGIN, 60, "IN", "NS", "ns.lab.test.")
    return [soa(serial), apex, *map(host, hosts), soa(serial)]


def differences(first: int, last: int) -> list[dns.rrset.RRset]:
    """
    The steps from one serial to another, as IXFR sends them: each takes a host away and adds another.
    """
    steps: list[dns.rrset.RRset] = []
    for serial in range(first, last):
        steps += [soa(serial), host(serial), soa(serial + 1), host(serial + 1)]
    return [soa(last), *steps, soa(last)]


def messages_of(
    query: dns.message.Message, records: list[dns.rrset.RRset], cuts: set[int], *, question: bool = True
) -> list[bytes]:
    """
    The messages of a transfer; a new one begins before each record in ``cuts``.
    """
    messages: list[bytes] = []
    current: list[dns.rrset.RRset] = []
    for number, record in enumerate([*records, None]):
        if current and (record is None or number in cuts):
            reply = dns.message.make_response(query)
            reply.use_edns(False)
            if messages and not question:
                reply.question = []
            wire = reply.to_wire()
            body = b"".join(_wire(one) for one in current)
            messages.append(wire[:6] + len(current).to_bytes(2, "big") + wire[8:] + body)
            current = []
        if record is not None:
            current.append(record)
    return messages


def _wire(record: dns.rrset.RRset) -> bytes:
    rdata = record[0].to_wire(origin=ORIGIN)
    fixed = int(record.rdtype).to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(rdata).to_bytes(2, "big")
    return record.name.to_wire() + fixed + rdata


def make_query(rtype: str, serial: int | None = None) -> dns.message.Message:
    """
    A question for a zone, or for what is new since ``serial``.
    """
    query = dns.message.make_query(ORIGIN, rtype)
    if serial is not None:
        query.authority.append(soa(serial))
    return query


def take_all(query: dns.message.Message, messages: list[bytes]) -> list[bool]:
    """
    Whether the transfer was over, after each message.
    """
    wire = query.to_wire()
    transfer = Transfer(wire, parse_query(wire))
    overs: list[bool] = []
    for message in messages:
        transfer.take(message)
        overs.append(transfer.is_over)
    return overs


class TransferTests(SynchronousTestCase):
    """
    Transfers that go well.
    """

    @given(
        st.integers(0, 300), st.sets(st.integers(1, 300), max_size=40), st.booleans(), st.sampled_from(("AXFR", "IXFR"))
    )
    def test_zone_ends_with_its_second_soa(self, hosts: int, cuts: set[int], question: bool, rtype: str) -> None:
        """
        A zone ends with its second SOA, however it is cut into messages, asked for by either type (RFC 5936 §2.2,
        RFC 1995 §4).
        """
        query = make_query(rtype, 3 if rtype == "IXFR" else None)
        messages = messages_of(query, whole(7, range(hosts)), cuts, question=question)
        self.assertEqual([False] * (len(messages) - 1) + [True], take_all(query, messages))
        self.assertTrue(self.is_complete(query, messages, rtype))

    @given(st.integers(1, 5), st.integers(1, 20), st.sets(st.integers(1, 90), max_size=40), st.booleans())
    def test_differences_end_with_the_newest_soa(self, first: int, steps: int, cuts: set[int], question: bool) -> None:
        """
        After the last addition (RFC 1995 §4).
        """
        query = make_query("IXFR", first)
        messages = messages_of(query, differences(first, first + steps), cuts, question=question)
        self.assertEqual([False] * (len(messages) - 1) + [True], take_all(query, messages))
        self.assertTrue(self.is_complete(query, messages, "IXFR", first))

    def test_single_soa_ends_the_transfer_if_the_client_is_current(self) -> None:
        """
        A client that has the newest, or a newer, gets one SOA (RFC 1995 §2, RFC 1982 §3.2).
        """
        for have, newest, over in (
            (7, 7, True),
            (9, 7, True),
            (5, 7, False),
            (1, 2**32 - 1, True),
            (2**32 - 1, 1, False),
        ):
            query = make_query("IXFR", have)
            self.assertEqual([over], take_all(query, messages_of(query, [soa(newest)], set())), (have, newest))

    def test_transfer_without_the_clients_serial_is_judged_by_its_records(self) -> None:
        """
        Without its serial, or with a broken one, a transfer is judged by what comes.
        """
        query = make_query("IXFR")
        self.assertEqual([False], take_all(query, messages_of(query, [soa(1)], set())))
        wire = make_query("IXFR", 1).to_wire()[:-21]
        wire = wire[:-3] + b"\0\0"
        transfer = Transfer(wire, parse_query(make_query("IXFR").to_wire()))
        self.assertFalse(transfer.is_over)

    def test_error_or_empty_response_ends_the_transfer(self) -> None:
        """
        An error ends a transfer, and so does a first response without records (RFC 5936 §2.2.1).
        """
        for rtype in ("AXFR", "IXFR"):
            for rcode in (0, 5, 9):
                query = make_query(rtype)
                reply = dns.message.make_response(query)
                reply.set_rcode(rcode)
                wire = query.to_wire()
                transfer = Transfer(wire, parse_query(wire))
                transfer.take(reply.to_wire())
                self.assertEqual((True, True), (transfer.is_over, transfer.is_refused))

    def test_error_after_the_first_message_is_no_refusal(self) -> None:
        """
        It ends the transfer.
        """
        query = make_query("AXFR")
        wire = query.to_wire()
        transfer = Transfer(wire, parse_query(wire))
        transfer.take(messages_of(query, whole(1, range(9)), {4})[0])
        reply = dns.message.make_response(query)
        reply.set_rcode(2)
        transfer.take(reply.to_wire())
        self.assertEqual((True, False), (transfer.is_over, transfer.is_refused))

    def test_messages_without_records_may_come_in_between(self) -> None:
        """
        Messages without records may come in between (RFC 9103 §7.4).
        """
        query = make_query("AXFR")
        first, second = messages_of(query, whole(1, range(9)), {4})
        empty = dns.message.make_response(query).to_wire()
        self.assertEqual([False, False, True], take_all(query, [first, empty, second]))

    def is_complete(self, query: dns.message.Message, messages: list[bytes], rtype: str, serial: int = 3) -> bool:
        """
        Whether dnspython finds the transfer complete, with its last message and not before.
        """
        zone = dns.zone.Zone(ORIGIN, relativize=False)
        with zone.writer() as txn:
            for record in (soa(serial), host(serial)):
                txn.add(record)
        kind = dns.rdatatype.from_text(rtype)
        with dns.xfr.Inbound(zone, kind, serial if kind == dns.rdatatype.IXFR else None) as inbound:
            told = [
                inbound.process_message(dns.message.from_wire(message, xfr=True, one_rr_per_rrset=True))
                for message in messages
            ]
        return told == [False] * (len(messages) - 1) + [True]


class NoTransferTests(SynchronousTestCase):
    """
    What is not part of a transfer.
    """

    def setUp(self) -> None:
        """
        A transfer in two messages.
        """
        self.query = make_query("AXFR")
        self.messages = messages_of(self.query, whole(1, range(9)), {4})

    def test_messages_that_are_no_transfer_are_refused(self) -> None:
        """
        A query, another opcode, another question, two questions, no SOA first, too short ones, records after the end.
        """
        first = self.messages[0]
        other = first.replace(b"\3lab", b"\3lob", 1)
        without_soa = messages_of(self.query, [host(1)], set())[0]
        rubbish = [
            first[:2] + bytes((first[2] & 0x7F,)) + first[3:],
            first[:2] + bytes((first[2] | 0x20,)) + first[3:],
            other,
            first[:5] + b"\2" + first[6:],
            without_soa,
            first[:11],
            first[:-1],
            b"",
        ]
        for message in rubbish:
            self.assertRaises(WireError, take_all, self.query, [message])
        extra = messages_of(self.query, [*whole(1, range(3)), host(1)], set())
        self.assertRaises(WireError, take_all, self.query, extra)

    def test_short_soa_is_refused(self) -> None:
        """
        An SOA without a serial cannot be one.
        """
        query = make_query("IXFR", 1)
        rdata = b"\0\0\0\0\0\1"
        wire = dns.message.make_response(query).to_wire()
        record = ORIGIN.to_wire() + b"\0\6\0\1\0\0\0\x3c" + len(rdata).to_bytes(2, "big") + rdata
        self.assertRaises(WireError, take_all, query, [wire[:6] + b"\0\1" + wire[8:] + record])

    @given(st.data())
    def test_any_octets_are_accepted_or_a_wire_error(self, data: st.DataObject) -> None:
        """
        Whatever comes, it is taken or it is a WireError.
        """
        seed = data.draw(st.integers(0, 2**32))
        chance = random.Random(seed)
        message = bytearray(self.messages[0])
        for _ in range(chance.randrange(1, 6)):
            message[chance.randrange(len(message))] = chance.randrange(256)
        with contextlib.suppress(WireError):
            take_all(self.query, [bytes(message)])
