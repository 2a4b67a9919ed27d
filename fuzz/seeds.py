"""
Messages to begin with: python -m fuzz.seeds writes them into fuzz/corpus.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rrset

CORPUS = Path(__file__).parent / "corpus"


def queries() -> list[bytes]:
    """
    Queries of many kinds, one of them framed.
    """
    options = [dns.edns.GenericOption(code, bytes(size)) for code, size in ((8, 4), (10, 8), (11, 0), (12, 20), (3, 0))]
    made = [
        dns.message.make_query("www.fuzz.example.", "A"),
        dns.message.make_query("www.fuzz.example.", "A", use_edns=0, want_dnssec=True, options=options),
        dns.message.make_query("www.fuzz.example.", "ANY", use_edns=1),
        dns.message.make_query("x.localhost.", "AAAA", use_edns=0),
        dns.message.make_query("a\\000\\255.b." + "c" * 63 + ".", "TYPE65280", "CH"),
        dns.message.make_query("fuzz.example.", "IXFR"),
    ]
    for number, query in enumerate(made):
        query.id = number
    wires = [query.to_wire() for query in made]
    wires.append(wires[0][:2] + b"\x28" + wires[0][3:])
    wires += [len(wire).to_bytes(2, "big") + wire for wire in wires[:2]]
    return wires


def replies() -> list[bytes]:
    """
    Replies of many kinds, without their IDs; one is a stream.
    """
    query = dns.message.make_query("www.fuzz.example.", "A", use_edns=0)
    made = []
    for count in (0, 1, 40):
        reply = dns.message.make_response(query)
        if count:
            addresses = [f"10.0.0.{number}" for number in range(count)]
            reply.answer.append(dns.rrset.from_text("www.fuzz.example.", 60, "IN", "A", *addresses))
        made.append(reply)
    error = dns.message.make_response(query)
    error.set_rcode(2)
    error.use_edns(0, options=[dns.edns.EDEOption(6, "bogus"), dns.edns.GenericOption(11, b"\0\1")])
    made.append(error)
    truncated = dns.message.make_response(query)
    truncated.flags |= dns.flags.TC
    made.append(truncated)
    wires = [reply.to_wire()[2:] for reply in made]
    wires.append(b"\x81\x81" + bytes(8))
    return [*wires, (len(wires[1]) + 2).to_bytes(2, "big") + b"\xfe\xff" + wires[1]]


def main() -> None:
    """
    Write them.
    """
    for name, wires in (("queries", queries()), ("replies", replies())):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for wire in wires:
            (CORPUS / name / sha256(wire).hexdigest()[:16]).write_bytes(wire)


if __name__ == "__main__":
    main()
