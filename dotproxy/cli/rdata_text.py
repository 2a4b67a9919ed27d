r"""
Rdata in presentation form (RFC 1035 §5.1, RFC 3597 §5), as in zone files and in dig's output.

Decides how the fields of each type are written.  Rdata of an unknown type, and malformed rdata, is written in the
generic form of RFC 3597: ``\# 4 c0000201``.
"""

from __future__ import annotations

from base64 import b32hexencode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

from dotproxy.errors import WireError
from dotproxy.wire.names import read_name, to_text
from dotproxy.wire.rrtypes import NAMES, name_of


class _Reader:
    """
    Reads one rdata from its start; it has the whole message, since names may be compressed.
    """

    def __init__(self, message: bytes, at: int, end: int) -> None:
        self._message = message
        self.at = at
        self.end = end

    def take(self, count: int) -> bytes:
        """
        Return the next octets.

        :raises WireError: if there are fewer.
        """
        if self.at + count > self.end:
            raise WireError("rdata is too short for its type")
        self.at += count
        return self._message[self.at - count : self.at]

    def number(self, octets: int) -> int:
        """
        Return the next ``octets`` as a number, big endian.
        """
        return int.from_bytes(self.take(octets), "big")

    def counted(self) -> bytes:
        """
        Return a character string: its length in one octet, then its octets.
        """
        return self.take(self.number(1))

    def rest(self) -> bytes:
        """
        Return the octets up to the end.
        """
        return self.take(self.end - self.at)

    def name(self) -> str:
        """
        Return the next name.
        """
        name, self.at = read_name(self._message, self.at)
        if self.at > self.end:
            raise WireError("a name runs past the end of its rdata")
        return to_text(name)


def rdata_text(message: bytes, rtype: int, at: int, end: int) -> str:
    """
    Return the rdata from ``at`` to ``end`` of a message, for a record of type ``rtype``.
    """
    reader = _Reader(message, at, end)
    fields = _FIELDS.get(rtype, ())
    try:
        written = " ".join(filter(None, (field(reader) for field in fields)))
    except (WireError, ValueError, OverflowError):
        fields = ()
    if fields and reader.at == end:
        return written
    return f"\\# {end - at} {message[at:end].hex()}".rstrip()


def quoted(octets: bytes) -> str:
    """
    Return a character string in quotes; octets that are not printable ASCII are escaped (RFC 1035 §5.1).
    """
    return f'"{_escaped(octets)}"'


def _escaped(octets: bytes) -> str:
    return "".join(
        f"\\{chr(octet)}" if octet in b'"\\' else chr(octet) if 0x20 <= octet <= 0x7E else f"\\{octet:03d}"
        for octet in octets
    )


Field = Callable[[_Reader], str]


def _decimal(octets: int) -> Field:
    return lambda reader: str(reader.number(octets))


def _strings(reader: _Reader) -> str:
    texts: list[str] = []
    while not texts or reader.at < reader.end:
        texts.append(quoted(reader.counted()))
    return " ".join(texts)


def _time(reader: _Reader) -> str:
    return datetime.fromtimestamp(reader.number(4), UTC).strftime("%Y%m%d%H%M%S")


def _types(reader: _Reader) -> str:
    """
    Return the types of a type bitmap (RFC 4034 §4.1.2).
    """
    types: list[int] = []
    while reader.at < reader.end:
        window = reader.number(1)
        for index, octet in enumerate(reader.counted()):
            types += [window << 8 | index << 3 | bit for bit in range(8) if octet & 0x80 >> bit]
    return " ".join(map(name_of, types))


def _svc_params(reader: _Reader) -> str:
    """
    Return the parameters of SVCB and HTTPS (RFC 9460 §2.1).
    """
    parameters: list[str] = []
    while reader.at < reader.end:
        key = reader.number(2)
        inner = reader.take(reader.number(2))
        name, show = _PARAMETERS.get(key, (f"key{key}", _escaped_value))
        value = show(_Reader(inner, 0, len(inner)))
        parameters.append(f"{name}={value}" if value else name)
    return " ".join(parameters)


def _escaped_value(reader: _Reader) -> str:
    octets = reader.rest()
    return quoted(octets) if octets else ""


def _each(one: Field, *, quote: bool = False) -> Field:
    """
    Return a field that is a list, separated by commas.
    """

    def show(reader: _Reader) -> str:
        values: list[str] = []
        while reader.at < reader.end:
            values.append(one(reader))
        return f'"{",".join(values)}"' if quote else ",".join(values)

    return show


def _alpn(reader: _Reader) -> str:
    # Escaped twice: as an item of a list, and then as a character string (RFC 9460 §A.1).
    item = reader.counted().replace(b"\\", b"\\\\").replace(b",", b"\\,")
    return _escaped(item)


def _parameter_key(reader: _Reader) -> str:
    key = reader.number(2)
    return _PARAMETERS[key][0] if key in _PARAMETERS else f"key{key}"


def _four(reader: _Reader) -> str:
    return str(IPv4Address(reader.take(4)))


def _six(reader: _Reader) -> str:
    return str(IPv6Address(reader.take(16)))


def _base64(reader: _Reader) -> str:
    return b64encode(reader.rest()).decode()


_PARAMETERS: dict[int, tuple[str, Field]] = {
    0: ("mandatory", _each(_parameter_key)),
    1: ("alpn", _each(_alpn, quote=True)),
    2: ("no-default-alpn", _escaped_value),
    3: ("port", _decimal(2)),
    4: ("ipv4hint", _each(_four)),
    5: ("ech", _base64),
    6: ("ipv6hint", _each(_six)),
    7: ("dohpath", _escaped_value),
    8: ("ohttp", _escaped_value),
}

#: The fields of the formats below, by their letters.
_LETTERS: dict[str, Field] = {
    "1": _decimal(1),
    "2": _decimal(2),
    "4": _decimal(4),
    "n": _Reader.name,
    "t": lambda reader: name_of(reader.number(2)),
    "i": _four,
    "I": _six,
    "s": lambda reader: quoted(reader.counted()),
    "S": _strings,
    "q": lambda reader: quoted(reader.rest()),
    "c": lambda reader: _escaped(reader.counted()),
    "x": lambda reader: reader.rest().hex(),
    "b": _base64,
    "T": _time,
    "B": _types,
    "Z": lambda reader: reader.counted().hex() or "-",
    "H": lambda reader: b32hexencode(reader.counted()).decode().rstrip("=").lower(),
    "P": _svc_params,
}

_FORMATS = {
    "A": "i",
    "AAAA": "I",
    **dict.fromkeys(("NS", "MD", "MF", "CNAME", "MB", "MG", "MR", "PTR", "DNAME", "NSAP-PTR"), "n"),
    "SOA": "nn44444",
    "HINFO": "ss",
    **dict.fromkeys(("MINFO", "RP", "TALINK"), "nn"),
    **dict.fromkeys(("MX", "AFSDB", "RT", "KX", "LP"), "2n"),
    **dict.fromkeys(("TXT", "SPF", "NINFO", "AVC", "RESINFO", "WALLET", "CLA"), "S"),
    "PX": "2nn",
    "SRV": "222n",
    "NAPTR": "22sssn",
    "URI": "22q",
    "CAA": "1cq",
    **dict.fromkeys(("DS", "CDS", "DLV", "TA"), "211x"),
    **dict.fromkeys(("DNSKEY", "CDNSKEY", "KEY", "RKEY"), "211b"),
    **dict.fromkeys(("RRSIG", "SIG"), "t114TT2nb"),
    "NSEC": "nB",
    "NSEC3": "112ZHB",
    "NSEC3PARAM": "112Z",
    "CSYNC": "42B",
    "SSHFP": "11x",
    **dict.fromkeys(("TLSA", "SMIMEA"), "111x"),
    "CERT": "221b",
    "ZONEMD": "411x",
    **dict.fromkeys(("OPENPGPKEY", "DHCID"), "b"),
    **dict.fromkeys(("SVCB", "HTTPS"), "2nP"),
}
_FIELDS: dict[int, tuple[Field, ...]] = {
    number: tuple(_LETTERS[letter] for letter in _FORMATS[name]) for number, name in NAMES.items() if name in _FORMATS
}
