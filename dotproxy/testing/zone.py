"""
Canned answers: a tiny authoritative server as a function from query to answer.

Decides nothing a real server would not; it exists so that a proxy can be tried with nothing else around.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from dotproxy.errors import WireError
from dotproxy.wire.edns import DO, opt_record
from dotproxy.wire.message import AA, HEADER, HEADER_SIZE, NXDOMAIN, QR, RD, parse_query
from dotproxy.wire.names import fold, from_text
from dotproxy.wire.rrtypes import AAAA, TXT, A

#: The types are here too, for tests that make a zone.
__all__ = ("AAAA", "TXT", "A", "Zone", "address_rdata", "txt_rdata")


def address_rdata(address: str) -> bytes:
    """
    Return the rdata of an A or AAAA record.
    """
    return ip_address(address).packed


def txt_rdata(text: str) -> bytes:
    """
    Return the rdata of a TXT record, cut into strings of 255 octets.
    """
    octets = text.encode()
    pieces = [octets[start : start + 255] for start in range(0, len(octets), 255)] or [b""]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces)


class Zone:
    """
    Answers from a table: (name in presentation form, type) → rdatas.  TTLs are 300.
    """

    def __init__(self, records: Mapping[tuple[str, int], list[bytes]]) -> None:
        self._records = {(fold(from_text(name)), rtype): rdatas for (name, rtype), rdatas in records.items()}
        self._names = {name for name, _ in self._records}

    def __call__(self, query: bytes) -> bytes | None:
        """
        Return the answer to ``query``, None if it deserves none.
        """
        try:
            info = parse_query(query)
        except WireError:
            return None
        name = fold(query[HEADER_SIZE : info.question_end - 4])
        rdatas = self._records.get((name, info.qtype), [])
        rcode = 0 if name in self._names else NXDOMAIN
        flags = QR | AA | (query[2] << 8) & RD | rcode
        opt = opt_record(1232, 0, info.edns_flags & DO) if info.opt_at else b""
        header = HEADER.pack(query[0] << 8 | query[1], flags, 1, len(rdatas), 0, 1 if opt else 0)
        answers = (b"\xc0\x0c" + query[info.question_end - 4 : info.question_end] + _rest(rdata) for rdata in rdatas)
        return header + query[HEADER_SIZE : info.question_end] + b"".join(answers) + opt


def _rest(rdata: bytes) -> bytes:
    return (300).to_bytes(4, "big") + len(rdata).to_bytes(2, "big") + rdata
