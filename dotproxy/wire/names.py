"""
Domain names in wire form (RFC 1035 §3.1, §4.1.4).

Decides where a name ends and whether it is valid.  Every walk is bounded by the 255 octets of a name, and by pointers
that must point strictly backwards.
"""

from __future__ import annotations

from dotproxy.errors import WireError

MAX_NAME = 255
MAX_LABEL = 63
MAX_LABELS = 127


def skip_question_name(octets: bytes, offset: int) -> int:
    """
    Return the offset after the uncompressed name at ``offset``.

    A question has nothing before it to point at, so a pointer is an error here.
    :raises WireError: if it is no name, or runs past the end of ``octets``.
    """
    last = offset + MAX_NAME - 1  # where its final octet may stand at the latest
    try:
        while length := octets[offset]:
            if length > MAX_LABEL:
                raise WireError("pointer or unknown label type in the question name")
            offset += length + 1
            if offset > last:
                raise WireError("question name longer than 255 octets")
    except IndexError:
        raise WireError("question name runs past the end of the message") from None
    return offset + 1


def skip_name(octets: bytes, offset: int) -> int:
    """
    Return the offset after the possibly compressed name at ``offset``, without following pointers.

    :raises WireError: if it is no name, or runs past the end of ``octets``.
    """
    last = offset + MAX_NAME - 1
    try:
        while length := octets[offset]:
            if length > MAX_LABEL:
                if length < 0xC0:
                    raise WireError("unknown label type")
                octets[offset + 1]
                return offset + 2
            offset += length + 1
            if offset > last:
                raise WireError("name longer than 255 octets")
    except IndexError:
        raise WireError("name runs past the end of the message") from None
    return offset + 1


def read_name(octets: bytes, offset: int) -> tuple[bytes, int]:
    """
    Return the name at ``offset`` uncompressed, and the offset after it.

    :raises WireError: for a pointer that does not point strictly backwards, more pointers than a name can
        have labels, a name of more than 255 octets, or one that runs past the end of ``octets``.
    """
    labels: list[bytes] = []
    size = 1
    pointers = 0
    lowest = offset
    after = -1
    try:
        while length := octets[offset]:
            if length <= MAX_LABEL:
                end = offset + 1 + length
                if end > len(octets):
                    raise WireError("name runs past the end of the message")
                labels.append(octets[offset:end])
                size += length + 1
                if size > MAX_NAME:
                    raise WireError("name longer than 255 octets")
                offset = end
            elif length >= 0xC0:
                target = (length & 0x3F) << 8 | octets[offset + 1]
                if target >= lowest:
                    raise WireError("compression pointer does not point backwards")
                pointers += 1
                if pointers > MAX_LABELS:
                    raise WireError("more compression pointers than a name can have labels")
                if after < 0:
                    after = offset + 2
                lowest = offset = target
            else:
                raise WireError("unknown label type")
    except IndexError:
        raise WireError("name runs past the end of the message") from None
    labels.append(b"\0")
    return b"".join(labels), after if after >= 0 else offset + 1


def fold(name: bytes) -> bytes:
    """
    Return a wire-form name in lower case, for comparing (RFC 4343).

    Lower-casing the whole of it is safe: a length octet is at most 63, below ``A``.
    """
    return name.lower()


def from_text(text: str) -> bytes:
    r"""
    Return the wire form of an absolute name in presentation form; ``\DDD`` and ``\X`` escape.

    :raises WireError: if it has an empty or overlong label, or is too long.
    """
    labels: list[bytearray] = [bytearray()]
    try:
        rest = iter(text.encode("ascii") if text.isascii() else text.encode("idna"))
    except UnicodeError:
        raise WireError(f"not a domain name: {text[:80]!r}") from None
    for octet in rest:
        if octet == 0x2E:
            labels.append(bytearray())
        elif octet == 0x5C:
            labels[-1].append(_unescape(rest))
        else:
            labels[-1].append(octet)
    if not labels[-1]:
        labels.pop()
    for label in labels:
        if not 0 < len(label) <= MAX_LABEL and text != ".":
            raise WireError(f"label of {len(label)} octets in {text!r}")
    name = b"".join(bytes([len(label)]) + label for label in labels if label) + b"\0"
    if len(name) > MAX_NAME:
        raise WireError(f"name longer than 255 octets: {text[:40]!r}…")
    return name


def to_text(name: bytes) -> str:
    """
    Return the presentation form of an uncompressed wire-form name, with its final dot (RFC 1035 §5.1).
    """
    parts: list[str] = []
    offset = 0
    while length := name[offset]:
        label = name[offset + 1 : offset + 1 + length]
        parts.append("".join(map(_escape, label)) + ".")
        offset += length + 1
    return "".join(parts) or "."


def _escape(octet: int) -> str:
    if octet in b'.\\"();@$':
        return "\\" + chr(octet)
    return chr(octet) if 0x21 <= octet <= 0x7E else f"\\{octet:03d}"


def _unescape(rest: object) -> int:
    digits = iter(rest)  # type: ignore[call-overload]
    first = next(digits, None)
    if first is None:
        raise WireError("name ends in a lone backslash")
    if not 0x30 <= first <= 0x39:
        return int(first)
    code = bytes([first, *(next(digits, 0x20) for _ in range(2))])
    if not code.isdigit() or int(code) > 255:
        raise WireError(f"bad escape \\{code.decode('ascii')}")
    return int(code)
