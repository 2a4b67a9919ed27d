"""
Random questions asked of a server directly and through dotproxy: every difference has a reason.

Each reason is in ``REASONS``, with its RFC; whatever else differs fails the test, and so does a reason that nothing
needed.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import dns.dnssec
import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from dotproxy.wire.message import question_of
from tests.integration.programs import Proxy
from tests.integration.servers import ZONE, Bind, Nsd, Server

SEED = 20261121

#: How many questions: some in each run of the tests, more in ``make soak``.
QUESTIONS = [600, pytest.param(5000, marks=pytest.mark.soak)]

#: ANY is asked over UDP, too, to be compared.
_ALL = ("--minimal-any", "no")

REASONS = {
    "between neighbours": "RFC 7873 §5, RFC 7828 §4, RFC 7830 §6, RFC 7871 §7.2.2: these options are of one hop",
    "truncated for UDP": "RFC 5625 §4.4, RFC 6891 §7: TC, and of the records those that fit",
    "answered here": "RFC 6891 §6.1.3, RFC 8906 §3.1.4: BADVERS, NOTIMP and FORMERR need no upstream",
    "question put back": "RFC 1035 §4.1.1: an error that came without its question gets it back",
    "aged": "RFC 1035 §3.2.1, RFC 2308 §5: the TTLs of what is kept run down",
    "failed before": "RFC 9520 §3.2, RFC 8914 §4.14: a failure that is kept says so",
    "no answer": "a server that hangs up on a question says nothing about it",
}

OWNERS = [
    *("@", "www", "WwW", "alias", "mx", "unk", "long", "huge", "ns", "nothing", "deep.nothing", "ent", "below.ent"),
    *("x.wild", "y.z.wild", "*.wild", "a\\000\\255\\.b", "nx\\000\\200", "l" * 63, "sub", "x.sub", "svc", "chain1"),
]
TYPES = [
    *("A", "AAAA", "MX", "TXT", "NS", "SOA", "CNAME", "DNSKEY", "DS", "NSEC", "RRSIG", "HTTPS", "SVCB", "CAA", "SRV"),
    *("PTR", "TYPE65280", "ANY", "TYPE249", "TYPE253", "TYPE1234", "NSEC3PARAM", "LOC"),
]
MORE = """
below.ent A 192.0.2.20
sub NS ns.sub
ns.sub A 192.0.2.30
svc HTTPS 1 . alpn=h2
chain1 CNAME chain2
chain2 CNAME chain3
chain3 A 192.0.2.40
"""


def signed_zone() -> str:
    """
    The zone, signed.
    """
    zone = dns.zone.from_text(ZONE + MORE, dns.name.from_text("lab.example."), relativize=False)
    key = ed25519.Ed25519PrivateKey.generate()
    dnskey = dns.dnssec.make_dnskey(key.public_key(), dns.dnssec.Algorithm.ED25519, flags=257)
    with zone.writer() as txn:
        dns.dnssec.sign_zone(zone, txn, [(key, dnskey)], lifetime=86400, add_dnskey=True, dnskey_ttl=300)
    return "$ORIGIN lab.example.\n" + zone.to_text(relativize=False) + "\n"


def questions(chance: random.Random, count: int) -> Iterator[bytes]:
    """
    Return so many queries of every kind, in wire form.
    """
    options: list[Callable[[], dns.edns.Option]] = [
        lambda: dns.edns.GenericOption(65001, chance.randbytes(chance.randrange(20))),
        lambda: dns.edns.GenericOption(3, b""),
        lambda: dns.edns.ECSOption("192.0.2.0", chance.choice((0, 16, 24))),
        lambda: dns.edns.GenericOption(10, chance.randbytes(8)),
        lambda: dns.edns.GenericOption(11, b""),
        lambda: dns.edns.GenericOption(12, bytes(chance.randrange(64))),
        lambda: dns.edns.GenericOption(15, b"\0\0"),
    ]
    for number in range(count):
        owner = chance.choice(OWNERS) if chance.random() < 0.9 else f"n{number}"
        name = "lab.example." if owner == "@" else f"{owner}.lab.example."
        if chance.random() < 0.05:
            name = chance.choice(ELSEWHERE)
        rclass = "IN" if chance.random() < 0.95 else chance.choice(("CH", "HS", "CLASS65280"))
        query = dns.message.make_query(name, chance.choice(TYPES), rclass, id=number % 65536)
        query.flags = dns.flags.Flag(0)
        for flag, likely in (
            (0x100, 0.8),
            (0x20, 0.3),
            (0x10, 0.3),
            (0x40, 0.05),
            (0x400, 0.05),
            (0x200, 0.05),
            (0x80, 0.05),
        ):
            if chance.random() < likely:
                query.flags |= flag
        if chance.random() < 0.7:
            flags = (0x8000 if chance.random() < 0.5 else 0) | (0x0123 if chance.random() < 0.1 else 0)
            chosen = [make() for make in options if chance.random() < 0.15]
            size = chance.choice((0, 100, 512, 1232, 1400, 4096, 65535))
            query.use_edns(int(chance.random() < 0.03), flags, size, options=chosen)
        wire = query.to_wire()
        if chance.random() < 0.3:
            end = question_of(wire) - 4
            wire = wire[:12] + bytes(_otherwise(octet, chance) for octet in wire[12:end]) + wire[end:]
        if chance.random() < 0.02:
            wire = wire[:2] + bytes((wire[2] | chance.choice((2, 4, 5, 6)) << 3,)) + wire[3:]
        yield wire


def _otherwise(octet: int, chance: random.Random) -> int:
    return octet ^ 0x20 if chr(octet).isalpha() and octet < 128 and chance.random() < 0.5 else octet


ELSEWHERE = (".", "example.", "elsewhere.org.", "x" * 60 + "." + ("y" * 58 + ".") * 3 + "lab.example.")

HOP_OPTIONS = {8, 10, 11, 12}

#: Types whose rdata has names that servers compress.
NAMES_IN = {2, 5, 6, 12, 15, 33}


class Difference:
    """
    What differs between two answers: the ``reasons`` that explain it, and the ``problems``, which none explains.
    """

    def __init__(self, query: bytes, direct: bytes, through: bytes, *, tcp: bool, age: float = 0) -> None:
        self.query, self.direct, self.through, self.tcp, self.age = query, direct, through, tcp, age
        self.reasons: set[str] = set()
        self.problems: list[str] = []
        self.is_truncated = False
        if query[2] & 0x78:
            self.reasons.add("answered here")
            self._require(through[2] & 0xF8 == 0x80 | query[2] & 0x78 and through[3] & 15 == 4, "it is not NOTIMP")
            return
        self.asked = dns.message.from_wire(query)
        self.theirs, self.ours = (dns.message.from_wire(wire, raise_on_truncation=False) for wire in (direct, through))
        if self.asked.edns > 0:
            self.reasons.add("answered here")
            self._require(self.ours.rcode() == dns.rcode.BADVERS, "it is not BADVERS")
            return
        self._judge_header()
        self._judge_sections()
        self._judge_edns()

    def _require(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.problems.append(otherwise)

    def _judge_header(self) -> None:
        asked, theirs, ours = self.asked, self.theirs, self.ours
        end = question_of(self.query)
        self._require(self.through[12:end] == self.query[12:end], "the question is not as it was asked")
        self._require(ours.rcode() == theirs.rcode(), f"rcode {ours.rcode()!r} for {theirs.rcode()!r}")
        changed = ours.flags ^ theirs.flags
        if not self.direct[5]:
            self.reasons.add("question put back")
            changed &= ~(dns.flags.RD | dns.flags.CD)
        if changed & dns.flags.TC and ours.flags & dns.flags.TC and not self.tcp:
            self.reasons.add("truncated for UDP")
            self.is_truncated = True
            limit = max(512, min(asked.payload, 1232)) if asked.edns >= 0 else 512
            fits = len(self.through) <= limit < len(self.direct) + 11
            self._require(fits, f"cut to {len(self.through)} octets of {len(self.direct)}, the limit being {limit}")
            changed &= ~dns.flags.TC
        self._require(not changed, f"flags {int(theirs.flags):#x} became {int(ours.flags):#x}")

    def _judge_sections(self) -> None:
        for section in ("answer", "authority", "additional"):
            mine, other = (
                [
                    (self._folded(r.name.to_text()), r.rdtype, r.ttl, self._folded(d.to_text(), r.rdtype in NAMES_IN))
                    for r in getattr(message, section)
                    for d in r
                ]
                for message in (self.ours, self.theirs)
            )
            if self.is_truncated:
                other = other[: len(mine)]
            if mine != other and len(mine) == len(other):
                aged = [theirs[2] - ours[2] for ours, theirs in zip(mine, other, strict=True)]
                if all(0 <= seconds <= self.age for seconds in aged):
                    self.reasons.add("aged")
                    mine = [(*mine[n][:2], other[n][2], mine[n][3]) for n in range(len(mine))]
            self._require(mine == other, f"the {section} section differs")

    def _folded(self, text: str, has_names: bool = True) -> str:
        # What is kept was asked for in another spelling, and names may be compressed to that (RFC 4343 §4.1).
        return text.lower() if self.age and has_names else text

    def _judge_edns(self) -> None:
        asked, theirs, ours = self.asked, self.theirs, self.ours
        self._require((ours.edns >= 0) == (asked.edns >= 0), "EDNS where there should be none, or the other way round")
        if asked.edns < 0:
            return
        self._require(ours.ednsflags & 0xFFFF == asked.ednsflags & 0x8000, f"EDNS flags {ours.ednsflags:#x}")
        mine, other = (
            {option.otype: option.to_wire() for option in reversed(message.options)} for message in (ours, theirs)
        )
        said = [option.to_wire() for option in ours.options if option.otype == 15]
        if self.age and ours.rcode() in (2, 5) and b"\0\x0d" in said:
            self.reasons.add("failed before")
            if len(said) == 1:
                del mine[15]
        changed = {code for code in mine.keys() | other.keys() if mine.get(code) != other.get(code)}
        if changed & HOP_OPTIONS:
            self.reasons.add("between neighbours")
        lost = changed - HOP_OPTIONS
        self._require(not lost or self.is_truncated, f"options {sorted(lost)} differ")
        passed = mine.keys() & HOP_OPTIONS - ({11} if self.tcp else set())
        self._require(not passed, f"options {sorted(passed)} of one hop were passed on")


def once(query: bytes, chance: random.Random) -> list[bytes]:
    """
    A query, and nothing else.
    """
    return [query]


def thrice(query: bytes, chance: random.Random) -> list[bytes]:
    """
    A query, the same spelled otherwise, and the same with another AD, another EDNS and other options.
    """
    end = question_of(query)
    spelled = query[:12] + bytes(_otherwise(octet, chance) for octet in query[12 : end - 4]) + query[end - 4 :]
    changed = dns.message.from_wire(query) if not query[2] & 0x78 else None
    if changed is None or changed.edns > 0:
        return [query, spelled]
    changed.flags ^= dns.flags.AD
    do = changed.ednsflags & 0x8000
    if changed.edns < 0 or (not do and chance.random() < 0.3):
        changed.use_edns(-1 if changed.edns >= 0 else 0)
    else:
        options = [dns.edns.GenericOption(10, chance.randbytes(8))] if chance.random() < 0.5 else []
        changed.use_edns(0, do, chance.choice((512, 1232, 4096)), options=options)
    return [query, spelled, changed.to_wire()]


def compare(
    program: Proxy,
    server: Server,
    count: int,
    variants: Callable[[bytes, random.Random], list[bytes]] = once,
    age: float = 0,
) -> Counter[str]:
    """
    Ask so many questions both ways, each in its variants; return how often each reason was needed.
    """
    needed: Counter[str] = Counter()
    chance = random.Random(SEED + 1)
    with contextlib.ExitStack() as stack:
        ask = stack.enter_context(server.asked_directly())
        asked = (query for first in questions(random.Random(SEED), count) for query in variants(first, chance))
        for number, query in enumerate(asked):
            tcp = bool(number % 2)
            through = program.ask(query, tcp=tcp)
            assert through[:2] == query[:2]
            try:
                direct = ask(query)
            except EOFError:
                needed["no answer"] += 1
                ask = stack.enter_context(server.asked_directly())
                continue
            difference = Difference(query, direct, through, tcp=tcp, age=age)
            where = f"seed {SEED}, question {number}, {'TCP' if tcp else 'UDP'}: {difference.problems}"
            said = f"asked: {query.hex()}\ndirectly: {direct.hex()}\nthrough dotproxy: {through.hex()}"
            assert not difference.problems, f"{where}\n{said}"
            needed.update(difference.reasons)
            needed["the same"] += not difference.reasons
    return needed


KEPT = {"aged", "failed before"}


@pytest.mark.parametrize("count", QUESTIONS)
@pytest.mark.parametrize("kind", [Nsd, Bind], ids=lambda kind: kind.__name__)
def test_every_difference_has_a_reason(kind, count, serve, proxy):
    """
    What comes through dotproxy is what the server says, but for what RFC 5625 §3 lets a proxy change, and why.
    """
    server = serve(kind, zone=signed_zone())
    needed = compare(proxy(server.upstream, options=_ALL), server, count)
    print(dict(needed))
    assert needed.keys() - {"the same"} <= REASONS.keys() - KEPT
    if kind is Nsd:
        assert needed.keys() - {"the same"} == REASONS.keys() - KEPT - {"no answer"}


@pytest.mark.parametrize("count", QUESTIONS)
@pytest.mark.parametrize("kind", [Nsd, Bind], ids=lambda kind: kind.__name__)
def test_every_difference_has_a_reason_with_a_cache(kind, count, serve, proxy):
    """
    The same with what is kept: each question is asked again spelled otherwise, and with other flags and another EDNS.
    """
    server = serve(kind, zone=signed_zone())
    began = time.monotonic()
    needed = compare(proxy(server.upstream, options=_ALL, cache=True), server, count, thrice, age=90)
    print(dict(needed), f"{time.monotonic() - began:.0f} s")
    assert needed.keys() - {"the same"} <= REASONS.keys()
    assert needed.keys() >= {"aged"}
