"""
A DNS message as text, in dig's form.

Decides the layout, and how EDNS is shown.  Rdata is formatted by ``rdata_text``.
"""

from __future__ import annotations

from dotproxy.cli.rdata_text import rdata_text
from dotproxy.wire.edns import COOKIE, DO, ECS, EDE_OPTION, KEEPALIVE, PADDING, options_of
from dotproxy.wire.message import AA, AD, CD, HEADER, HEADER_SIZE, QR, RA, RD, TC
from dotproxy.wire.names import read_name, to_text
from dotproxy.wire.printable import printable
from dotproxy.wire.records import Record, walk
from dotproxy.wire.rrtypes import OPT, name_of

RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET")
_MORE_RCODES = {9: "NOTAUTH", 10: "NOTZONE", 11: "DSOTYPENI", 16: "BADVERS", 23: "BADCOOKIE"}
_OPCODES = {0: "QUERY", 1: "IQUERY", 2: "STATUS", 4: "NOTIFY", 5: "UPDATE", 6: "DSO"}
_CLASSES = {1: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}
_FLAGS = ((QR, "qr"), (AA, "aa"), (TC, "tc"), (RD, "rd"), (RA, "ra"), (AD, "ad"), (CD, "cd"))
_SECTIONS = ("ANSWER", "AUTHORITY", "ADDITIONAL")
_NSID = 3

#: Extended DNS Errors (RFC 8914 §4, and IANA's registry).
_EDE = (
    *("Other", "Unsupported DNSKEY Algorithm", "Unsupported DS Digest Type", "Stale Answer", "Forged Answer"),
    *("DNSSEC Indeterminate", "DNSSEC Bogus", "Signature Expired", "Signature Not Yet Valid", "DNSKEY Missing"),
    *("RRSIGs Missing", "No Zone Key Bit Set", "NSEC Missing", "Cached Error", "Not Ready", "Blocked", "Censored"),
    *("Filtered", "Prohibited", "Stale NXDOMAIN Answer", "Not Authoritative", "Not Supported"),
    *("No Reachable Authority", "Network Error", "Invalid Data", "Signature Expired before Valid", "Too Early"),
    *("Unsupported NSEC3 Iterations Value", "Unable to conform to policy", "Synthesized"),
)


def message_text(message: bytes) -> str:
    """
    Return a message as dig prints it.

    :raises WireError: if it is malformed.
    """
    ident, flags, *counts = HEADER.unpack_from(message)
    at = HEADER_SIZE
    questions: list[str] = []
    for _ in range(counts[0]):
        name, at = read_name(message, at)
        qtype, qclass = (int.from_bytes(message[start : start + 2], "big") for start in (at, at + 2))
        questions.append(f";{to_text(name)}\t\t{_class_name(qclass)}\t{name_of(qtype)}")
        at += 4
    records = list(walk(message, at, sum(counts[1:])))
    opt = next((record for record in records if record.type == OPT), None)
    rcode = flags & 15 | (opt.ttl >> 24 << 4 if opt else 0)
    shown = " ".join(name for bit, name in _FLAGS if flags & bit)
    numbers = zip(("QUERY", *_SECTIONS), counts, strict=True)
    lines = [
        f";; ->>HEADER<<- opcode: {_opcode(flags >> 11 & 15)}, status: {rcode_name(rcode)}, id: {ident}",
        f";; flags: {shown}; {', '.join(f'{name}: {count}' for name, count in numbers)}",
    ]
    if opt:
        lines += ["", ";; OPT PSEUDOSECTION:", *_edns_lines(message, opt)]
    lines += ["", ";; QUESTION SECTION:", *questions] if questions else []
    for section, count in zip(_SECTIONS, counts[1:], strict=True):
        texts = [_record_text(message, record) for record in records[:count] if record.type != OPT]
        records = records[count:]
        lines += ["", f";; {section} SECTION:", *texts] if texts else []
    return "\n".join(lines)


def rcode_name(rcode: int) -> str:
    """
    Return the name of a 12-bit rcode.
    """
    return RCODES[rcode] if rcode < len(RCODES) else _MORE_RCODES.get(rcode, f"RCODE{rcode}")


def extended_error_text(value: bytes) -> str:
    """
    Return an Extended DNS Error (RFC 8914) as text; ``value`` is the option's value, in wire form.
    """
    code = int.from_bytes(value[:2], "big")
    name = f" ({_EDE[code]})" if code < len(_EDE) else ""
    text = printable(value[2:].decode("utf-8", "replace"))
    return f"{code}{name}" + (f": ({text})" if text else "")


def _class_name(number: int) -> str:
    return _CLASSES.get(number, f"CLASS{number}")


def _opcode(number: int) -> str:
    return _OPCODES.get(number, f"OPCODE{number}")


def _record_text(message: bytes, record: Record) -> str:
    owner = to_text(read_name(message, record.start)[0])
    rdata = rdata_text(message, record.type, record.rdata_at, record.end)
    return f"{owner}\t{record.ttl}\t{_class_name(record.rclass)}\t{name_of(record.type)}\t{rdata}"


def _edns_lines(message: bytes, opt: Record) -> list[str]:
    flags = opt.ttl & 0xFFFF
    shown = " do" if flags & DO else ""
    unknown = f"; MBZ: 0x{flags & ~DO:04x}" if flags & ~DO else ""
    lines = [f"; EDNS: version: {opt.ttl >> 16 & 255}, flags:{shown}{unknown}; udp: {opt.rclass}"]
    for code, start, end in options_of(message, opt.start, opt.end):
        lines.append(f"; {_option_text(code, message[start + 4 : end])}")
    return lines


def _option_text(code: int, value: bytes) -> str:
    if code == EDE_OPTION and len(value) >= 2:
        return f"EDE: {extended_error_text(value)}"
    if code == KEEPALIVE and len(value) == 2:
        return f"TCP-KEEPALIVE: {int.from_bytes(value, 'big') / 10:.1f} secs"
    if code == PADDING:
        return f"PAD: ({len(value)} bytes)"
    if code == _NSID:
        return f'NSID: {value.hex(" ")} ("{printable(value.decode("utf-8", "replace"))}")'
    name = {COOKIE: "COOKIE", ECS: "CLIENT-SUBNET"}.get(code, f"OPT={code}")
    return f"{name}: {value.hex()}"
