"""
subjectAltName extensions, made octet by octet: what no library would write.
"""

from ipaddress import ip_address

#: The tags of GeneralName (RFC 5280 §4.2.1.6).
OTHER, EMAIL, DNS, URI, IP = 0xA0, 0x81, 0x82, 0x86, 0x87

#: An otherName of the kind id-on-dnsSRV (RFC 4985), but for its value.
_DNS_SRV = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x07"


def der(tag: int, value: bytes) -> bytes:
    """
    One element of DER.
    """
    size = len(value)
    if size < 128:
        return bytes((tag, size)) + value
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + value


def alt_names(*entries: tuple[int, bytes]) -> bytes:
    """
    A subjectAltName with these entries.
    """
    return der(0x30, b"".join(der(tag, value) for tag, value in entries))


def packed(address: str) -> bytes:
    """
    An address as iPAddress has it.
    """
    return ip_address(address).packed


def srv_name(text: bytes) -> bytes:
    """
    The contents of an otherName with a name of a service.
    """
    return _DNS_SRV + der(0xA0, der(0x16, text))


def entries_for(name: str, address: str) -> dict[str, tuple[tuple[int, bytes], ...]]:
    """
    Entries that could be taken to be for ``name``, of three labels, or for ``address``, and what there is beside: what
    they are → the entries.
    """
    host, tail = name.encode(), name.partition(".")[2].encode()
    lone = {
        "the name": (DNS, host),
        "upper case": (DNS, host.upper()),
        "wildcard": (DNS, b"*." + tail),
        "trailing space": (DNS, host + b" "),
        "leading space": (DNS, b" " + host),
        "tab": (DNS, b"\t" + host),
        "line break": (DNS, host + b"\n"),
        "no-break space": (DNS, host + b"\xc2\xa0"),
        "final dot": (DNS, host + b"."),
        "leading dot": (DNS, b"." + host),
        "embedded NUL": (DNS, host + b"\0.evil.example"),
        "final NUL": (DNS, host + b"\0"),
        "name before a NUL": (DNS, b"evil.example\0" + host),
        "not ASCII, lower case is": (DNS, host.replace(b"k", "\u212a".encode())),
        "full-width letters": (DNS, name.replace("d", "\uff44").encode()),
        "partial wildcard": (DNS, host[:1] + b"*." + tail),
        "partial wildcard at the end": (DNS, b"*" + host[1:]),
        "wildcard in an A-label": (DNS, b"xn--*." + tail),
        "wildcard of two labels": (DNS, b"*.*." + tail.partition(b".")[2]),
        "wildcard in the middle": (DNS, host.partition(b".")[0] + b".*." + tail.partition(b".")[2]),
        "wildcard beneath a top-level domain": (DNS, b"*." + tail.rpartition(b".")[2]),
        "wildcard for everything": (DNS, b"*"),
        "wildcard and final dot": (DNS, b"*." + tail + b"."),
        "two wildcards": (DNS, b"**." + tail),
        "empty": (DNS, b""),
        "a single dot": (DNS, b"."),
        "the parent": (DNS, tail),
        "a name below": (DNS, b"a." + host),
        "underscore": (DNS, b"_" + host),
        "as a URI": (URI, b"https://" + host),
        "as a bare URI": (URI, host),
        "malformed URI": (URI, b"nothing of the kind"),
        "as an e-mail address": (EMAIL, b"dns@" + host),
        "as a bare e-mail address": (EMAIL, host),
        "as a service": (OTHER, srv_name(b"_domain-s." + host)),
        "malformed service": (OTHER, srv_name(b"")),
        "the address": (IP, packed(address)),
        "address as text": (DNS, address.encode()),
        "address as wildcard": (DNS, b"*." + address.partition(".")[2].encode()),
        "address as URI": (URI, b"https://" + address.encode()),
        "address as number": (DNS, str(int(ip_address(address))).encode()),
        "address as mapped IPv6": (IP, packed("::ffff:" + address)),
        "address as a network": (IP, packed(address) + b"\xff\xff\xff\xff"),
        "every address": (IP, bytes(8)),
        "address of three octets": (IP, packed(address)[:3]),
        "address of no octets": (IP, b""),
        "not ASCII": (DNS, b"d\xf6t.example"),
    }
    found = {what: (entry,) for what, entry in lone.items()}
    for what, entry in lone.items():
        found[f"the name, then: {what}"] = ((DNS, host), entry)
        found[f"{what}, then: the address"] = (entry, (IP, packed(address)))
    found["many"] = (*((DNS, b"n%d.example" % number) for number in range(500)), (DNS, host))
    return found
