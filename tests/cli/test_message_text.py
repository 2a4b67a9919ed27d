"""
Answers as text.
"""

import re

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cli.message_text import extended_error_text, message_text, rcode_name
from dotproxy.cli.query import CannotAsk, _question
from dotproxy.cli.rdata_text import rdata_text
from dotproxy.wire.rrtypes import NAMES

#: A record of each type that is written field by field, as a zone file has it.
RECORDS = {
    "A": ["192.0.2.1"],
    "AAAA": ["2001:db8::1"],
    "NS": ["ns1.example."],
    "CNAME": [r"a\.b.\001\255x.example."],
    "PTR": ["."],
    "DNAME": ["example."],
    "SOA": ["ns1.example. host\\.master.example. 2026112100 7200 3600 1209600 300"],
    "HINFO": ['"INTEL \\"386" "Win\\\\32"'],
    "RP": ["admin.example. txt.example."],
    "MX": ["10 mail.example."],
    "AFSDB": ["1 afs.example."],
    "RT": ["1 r.example."],
    "KX": ["1 k.example."],
    "PX": ["10 a.example. b.example."],
    "TXT": ['"one" "two \\"quoted\\"; \\\\ \\000\\255"', '""'],
    "SPF": ['"v=spf1 -all"'],
    "SRV": ["0 5 853 dot.example."],
    "NAPTR": ['100 10 "u" "E2U+sip" "!^.*$!sip:a@example!" .'],
    "URI": ['10 1 "ftp://ftp.example/a b"'],
    "CAA": ['0 issue "ca.example; policy=ev"', '128 iodef "mailto:a@example"'],
    "DS": ["60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118"],
    "CDS": ["0 0 0 00"],
    "DNSKEY": ["257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ=="],
    "CDNSKEY": ["0 3 0 AA=="],
    "RRSIG": ["DNSKEY 13 2 3600 20260101000000 20251201000000 55648 example. AwEAAbGx"],
    "NSEC": ["b.example. A MX RRSIG NSEC TYPE1234"],
    "NSEC3": [
        "1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr MX DNSKEY NS SOA NSEC3PARAM RRSIG",
        "1 0 0 - 2t7b4g4v A",
    ],
    "NSEC3PARAM": ["1 0 0 -", "1 0 12 aabbccdd"],
    "CSYNC": ["66 3 A NS AAAA"],
    "SSHFP": ["2 1 123456789abcdef67890123456789abcdef67890"],
    "TLSA": [f"3 1 1 {'0d6fce33' * 8}"],
    "SMIMEA": ["3 1 0 0d6fce33"],
    "CERT": ["65534 65535 8 MxFcby9k"],
    "ZONEMD": [
        "2018031900 1 1 c68090d90a7aed716bc459e9c05a0d4d1c8d9e8e0d2ba4b5a4a0b7f8f6a5ab9e53d2a52c1a3c3a3b6c0d9fb0e3b0fb54"
    ],
    "OPENPGPKEY": ["AwEAAbGx"],
    "DHCID": ["AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA="],
    "SVCB": [
        '1 svc.example. alpn="h2,h3" port=853 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1',
        '16 foo.example. mandatory=alpn,ipv4hint alpn="dot" ipv4hint=192.0.2.1',
        '1 . alpn="f\\\\\\\\oo\\\\,bar,h2" key667="hello\\210qoo"',
        "0 svc2.example.",
    ],
    "HTTPS": ['1 . alpn="h3" no-default-alpn ech=AAT+DQAA'],
}


def squeezed(text: str) -> str:
    """
    Without space, which may stand in hexadecimal and base64, and without case, which dnspython has in base32.
    """
    return re.sub(r"\s", "", text).lower()


class RdataTests(SynchronousTestCase):
    """
    Each type, against dnspython.
    """

    def written(self, rtype: int, octets: bytes) -> str:
        """
        Some rdata, in a message of its own.
        """
        return rdata_text(b"\xff" * 12 + octets + b"\xff", rtype, 12, 12 + len(octets))

    def test_rdata_text_agrees_with_dnspython(self) -> None:
        """
        What is written is what dnspython writes, and what it reads back as the same octets.
        """
        for name, texts in RECORDS.items():
            rtype = dns.rdatatype.from_text(name)
            for text in texts:
                rdata = dns.rdata.from_text("IN", rtype, text)
                octets = rdata.to_wire()
                written = self.written(rtype, octets)
                self.assertNotIn("\\#", written, name)
                self.assertEqual(octets, dns.rdata.from_text("IN", rtype, written).to_wire(), written)
                if name in {"SVCB", "HTTPS"}:  # dnspython quotes every parameter
                    self.assertEqual(squeezed(rdata.to_text()).replace('"', ""), squeezed(written).replace('"', ""))
                elif name != "CERT":  # for which dnspython has mnemonics
                    self.assertEqual(squeezed(rdata.to_text()), squeezed(written), name)

    def test_unknown_or_malformed_rdata_is_written_as_octets(self) -> None:
        """
        And rdata that is too short or too long for its type, are written as octets (RFC 3597 §5).
        """
        self.assertEqual("\\# 3 abcdef", self.written(65280, b"\xab\xcd\xef"))
        self.assertEqual("\\# 0", self.written(65280, b""))
        self.assertEqual("\\# 3 c00002", self.written(1, b"\xc0\x00\x02"))
        self.assertEqual("\\# 5 c000020101", self.written(1, b"\xc0\x00\x02\x01\x01"))
        self.assertEqual("\\# 4 000a0361", self.written(15, b"\x00\x0a\x03a"))

    @given(st.sampled_from([*NAMES, 65280]), st.binary(max_size=40))
    def test_any_rdata_is_one_printable_line(self, rtype: int, octets: bytes) -> None:
        """
        Nothing else comes of any rdata than one line of printable ASCII.
        """
        text = self.written(rtype, octets)
        self.assertTrue(text.isascii() and text.isprintable(), text)


class MessageTests(SynchronousTestCase):
    """
    Whole messages.
    """

    def test_message_has_the_form_of_dig(self) -> None:
        """
        Header, EDNS, question and sections, compressed names written in full.
        """
        query = dns.message.make_query("www.Example.", "A", want_dnssec=True)
        reply = dns.message.make_response(query)
        reply.id, reply.flags = 4711, reply.flags | dns.flags.RA | dns.flags.AD
        reply.use_edns(0, dns.flags.DO, 1232, options=[dns.edns.EDEOption(22, "quad9: connect: refused")])
        reply.answer.append(dns.rrset.from_text("www.Example.", 300, "IN", "CNAME", "Web.example."))
        reply.answer.append(dns.rrset.from_text("Web.example.", 60, "IN", "A", "192.0.2.1"))
        reply.answer.append(dns.rrset.from_text("Web.example.", 60, "IN", "AAAA", "2001:db8::1"))
        reply.authority.append(dns.rrset.from_text("Example.", 5, "IN", "NS", "ns.Example."))
        self.assertEqual(
            ";; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 4711\n"
            ";; flags: qr rd ra ad; QUERY: 1, ANSWER: 3, AUTHORITY: 1, ADDITIONAL: 1\n"
            "\n"
            ";; OPT PSEUDOSECTION:\n"
            "; EDNS: version: 0, flags: do; udp: 1232\n"
            "; EDE: 22 (No Reachable Authority): (quad9: connect: refused)\n"
            "\n"
            ";; QUESTION SECTION:\n"
            ";www.Example.\t\tIN\tA\n"
            "\n"
            ";; ANSWER SECTION:\n"
            "www.Example.\t300\tIN\tCNAME\tWeb.Example.\n"
            "Web.Example.\t60\tIN\tA\t192.0.2.1\n"
            "Web.Example.\t60\tIN\tAAAA\t2001:db8::1\n"
            "\n"
            ";; AUTHORITY SECTION:\n"
            "Example.\t5\tIN\tNS\tns.Example.",
            message_text(reply.to_wire()),
        )

    def test_options_and_rcodes_have_names(self) -> None:
        """
        Options by name where they have one here, what is unprintable replaced; rcodes of twelve bits.
        """
        reply = dns.message.make_response(dns.message.make_query("x.", "TYPE65280"))
        options = [(3, b"a\x1b"), (8, b"\0\1\0\0"), (10, b"12345678"), (11, b"\0\x64"), (12, bytes(5)), (65001, b"\1")]
        reply.use_edns(0, 0x4000, 512, options=[dns.edns.GenericOption(code, value) for code, value in options])
        reply.set_rcode(23)
        text = message_text(reply.to_wire())
        for part in (
            "status: BADCOOKIE",
            "; EDNS: version: 0, flags:; MBZ: 0x4000; udp: 512\n",
            '; NSID: 61 1b ("a\\x1b")\n',
            "; CLIENT-SUBNET: 00010000\n",
            "; COOKIE: 3132333435363738\n",
            "; TCP-KEEPALIVE: 10.0 secs\n",
            "; PAD: (5 bytes)\n",
            "; OPT=65001: 01\n",
            ";x.\t\tIN\tTYPE65280",
        ):
            self.assertIn(part, text)
        self.assertEqual("49152: (odd)", extended_error_text(b"\xc0\x00odd"))
        self.assertEqual(["REFUSED", "NOTAUTH", "RCODE12"], [rcode_name(number) for number in (5, 9, 12)])


class QuestionTests(SynchronousTestCase):
    """
    What is asked.
    """

    def test_query_is_built_from_name_and_type(self) -> None:
        """
        Is a query as dnspython reads it: a final dot need not be written, nor a type in capitals.
        """
        for name, rtype in (("www.example", "aaaa"), ("www.example.", "AAAA"), ("www.example", "TYPE28")):
            query = dns.message.from_wire(_question(name, rtype, dnssec=True))
            (question,) = query.question
            self.assertEqual(("www.example.", 28, 1), (question.name.to_text(), question.rdtype, question.rdclass))
            self.assertEqual((0, dns.flags.DO, dns.flags.RD), (query.edns, query.ednsflags, query.flags))
        (question,) = dns.message.from_wire(_question("bücher.example", "A", dnssec=False)).question
        self.assertEqual("xn--bcher-kva.example.", question.name.to_text())
        (question,) = dns.message.from_wire(_question(".", "TYPE65535", dnssec=False)).question
        self.assertEqual((".", 65535), (question.name.to_text(), question.rdtype))

    def test_invalid_name_or_type_is_an_error(self) -> None:
        """
        A type or a name that is none is told so.
        """
        for name, rtype, told in (
            ("a", "NONSENSE", "'NONSENSE' is not a type"),
            ("a", "TYPE65536", "is not a type"),
            ("a", "TYPE", "is not a type"),
            ("a..b", "A", "label of 0 octets"),
        ):
            self.assertIn(told, str(self.assertRaises(CannotAsk, _question, name, rtype, dnssec=False)))
