"""
How an upstream is written, in every spelling that is in use.

Decides what a SPEC means: addresses, port, the name to verify, pins.  Resolves nothing and dials
nothing; an upstream is given by address, so that no question about it has to be asked of anyone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote

from dotproxy.policy.pins import parse_pin, show_pin
from dotproxy.upstream.presets import PRESETS

DEFAULT_PORT = 853

#: What stands before the first # or ?, and what after each of them.
_SPEC = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<where>[^#?]*)"
    r"(?:\?(?P<before>[^#?]*))?(?:\#(?P<name>[^#?]*))?(?:\?(?P<after>[^#?]*))?",
    re.IGNORECASE,
)
#: ADDRESS, [ADDRESS], with :PORT or @PORT, and :NAME after a port.
_WHERE = re.compile(
    r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:@\[\]]*))(?:[:@](?P<port>[0-9]+)(?::(?P<name>[^:@]+))?)?", re.ASCII
)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
#: A host name; one whose last label is a number is none (RFC 1123 §2.1).
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """
    One upstream: where it is, and how it shows who it is.

    ``addresses`` are (IP address, port), in the order they are dialled.  ``name`` is verified against
    the certificate; without one it is the IP address that must be in it.  ``pins`` are SHA-256 digests
    of SubjectPublicKeyInfo.  ``weight`` is its share of the questions, for policies that share them out.

    One that is given by name has no addresses, but a ``host``: that name and the port.
    """

    addresses: tuple[tuple[str, int], ...]
    name: str | None = None
    pins: tuple[bytes, ...] = ()
    preset: str | None = None
    weight: int = 1
    host: tuple[str, int] | None = None

    def __str__(self) -> str:
        """
        The canonical spelling; a preset's is its name.
        """
        if self.preset:
            return self.preset
        host, port = self.host or self.addresses[0]
        where = endpoint_text(host, port) if not self.host or port != DEFAULT_PORT else host
        text = f"tls://{where}" + (f"#{self.name}" if self.name and self.name != host else "")
        more = [f"pin-sha256={show_pin(pin)}" for pin in self.pins]
        more += [f"weight={self.weight}"] if self.weight != 1 else []
        return f"{text}?{'&'.join(more)}" if more else text

    @property
    def label(self) -> str:
        """
        What logs and answers call it.
        """
        if self.preset:
            return self.preset
        host, port = self.host or self.addresses[0]
        where = host if port == DEFAULT_PORT else endpoint_text(host, port)
        return f"{self.name} ({where})" if self.name and self.name != host else where


def endpoint_text(host: str, port: int) -> str:
    """
    Return address and port as one word, IPv6 in brackets.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_upstream(spec: str) -> UpstreamAddress:
    """
    Return what ``spec`` means: a preset's name, or ``[tls://]ADDRESS[:PORT][#NAME][?pin-sha256=…]``,
    ``ADDRESS@PORT#NAME`` or ``ADDRESS:PORT:NAME``.

    :raises ValueError: saying what is wrong with it and what would be right.
    """
    spec = spec.strip()
    if spec.lower() in PRESETS:
        return preset(spec.lower())
    found = _SPEC.fullmatch(spec)
    if not found:
        raise ValueError(f"{spec!r} is not an upstream; {_WRITE}")
    if (scheme := (found["scheme"] or "tls").lower()) != "tls":
        raise ValueError(f"{spec!r}: only tls:// upstreams are spoken to, not {scheme}://")
    host, port, colon_name = _where(spec, found["where"])
    if colon_name and found["name"] is not None:
        raise ValueError(f"{spec!r} gives two names")
    query = "&".join(filter(None, (found["before"], found["after"])))
    pins, weight = _more(spec, query)
    return from_parts(host, port, found["name"] or colon_name, pins, weight)


_WRITE = "write tls://ADDRESS:PORT#NAME, as tls://1.1.1.1#cloudflare-dns.com"


def _where(spec: str, text: str) -> tuple[str, str | None, str | None]:
    """
    Address, port and name.  IPv6 without brackets is all address, but for a port after an @.
    """
    bare, _, port = text.partition("@")
    if bare.count(":") > 1 and _is_ip(bare):
        return bare, port or None, None
    found = _WHERE.fullmatch(text)
    if not found:
        raise ValueError(f"{spec!r} is not an upstream; {_WRITE}, and IPv6 with a port as [ADDRESS]:PORT")
    host = found["host"] if found["v6"] is None else found["v6"]
    if host.lower() in PRESETS:
        raise ValueError(f"{spec!r}: {host!r} is a preset, which has addresses, ports and a name of its own")
    return host, found["port"], found["name"]


def from_parts(
    address: str, port: str | int | None = None, name: str | None = None, pins: tuple[str, ...] = (), weight: Any = None
) -> UpstreamAddress:
    """
    Return the upstream at ``address``.

    :raises ValueError: saying which part is wrong.
    """
    where = (_where_it_is(address), _port(port))
    is_name = not _is_ip(where[0])
    checked = _name(name) if name else where[0] if is_name else None
    return UpstreamAddress(
        () if is_name else (where,),
        checked,
        tuple(parse_pin(pin) for pin in pins),
        weight=_weight(weight),
        host=where if is_name else None,
    )


def preset(name: str) -> UpstreamAddress:
    """
    Return the upstream a preset stands for.
    """
    authentication_name, addresses = PRESETS[name]
    return UpstreamAddress(tuple((address, DEFAULT_PORT) for address in addresses), authentication_name, preset=name)


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _where_it_is(text: str) -> str:
    if _is_ip(text):
        return str(ip_address(text))
    if "." in text.strip(".") and not text.replace(".", "").isdigit():
        return _name(text)
    if close := get_close_matches(text.lower(), PRESETS, 1):
        raise ValueError(f"{text!r} is neither an address nor a preset; did you mean {close[0]!r}?")
    raise ValueError(f"{text!r} is neither an IP address, nor a host name, nor a preset ({', '.join(PRESETS)})")


def _port(text: str | int | None) -> int:
    if text is None or text == "":
        return DEFAULT_PORT
    digits = str(text)
    is_number = not isinstance(text, bool) and digits.isascii() and digits.isdigit()
    if not is_number or not 0 < int(digits[:6]) < 65536:
        raise ValueError(f"port {text!r} is not a number from 1 to 65535")
    return int(digits)


def _name(text: str) -> str:
    """
    The A-label form of a name, without a final dot: what SNI and certificates carry.
    """
    name = text.rstrip(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{text!r} cannot be a host name") from None
    if _is_ip(bare := name.strip("[]")):
        kind = "IPv6" if isinstance(ip_address(bare), IPv6Address) else "IPv4"
        raise ValueError(f"{text!r} is an {kind} address; leave the name out to have the address verified")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not a host name")
    return name.lower()


def _weight(value: Any) -> int:
    if value is None:
        return 1
    digits = str(value)
    if isinstance(value, bool) or not digits.isascii() or not digits.isdigit() or not 0 < int(digits[:6]) <= 100:
        raise ValueError(f"weight {value!r} is not a whole number from 1 to 100")
    return int(digits)


def _more(spec: str, query: str) -> tuple[tuple[str, ...], str | None]:
    """
    What follows a question mark: pins and a weight.
    """
    pins: list[str] = []
    weight: str | None = None
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key.lower() == "weight":
            weight = value
        elif key.lower() == "pin-sha256":
            pins.append(unquote(value).strip('"'))
        else:
            raise ValueError(f"{spec!r}: {key!r} is not known here; only pin-sha256=BASE64 and weight=N are")
    return tuple(pins), weight
