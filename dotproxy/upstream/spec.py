"""
How an upstream is written: the spellings of other programs that docs/configuration.md lists, and our own.

Decides what a SPEC means: addresses, port, the name to verify, pins.  Resolves nothing and dials
nothing; an upstream is given by address, so that its name need not be looked up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
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
#: %NAME, as CoreDNS has it, or %INTERFACE: after the address or after the port, and inside brackets or outside.
_PERCENT = re.compile(r"(?P<before>[^%]*)%(?P<word>[^%:@\[\]]+)(?P<after>[^%]*)")
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
        text = self.preset or self._spelled()
        more = [f"pin-sha256={show_pin(pin)}" for pin in self.pins]
        more += [f"weight={self.weight}"] if self.weight != 1 else []
        return f"{text}?{'&'.join(more)}" if more else text

    def _spelled(self) -> str:
        host, port = self.host or self.addresses[0]
        where = endpoint_text(host, port) if not self.host or port != DEFAULT_PORT else host
        where = where.replace("%25", "%2525")  # in a URI %25 stands for % (RFC 6874 §2)
        return f"tls://{where}" + (f"#{self.name}" if self.name and self.name != host else "")

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
    ``ADDRESS@PORT#NAME``, ``ADDRESS:PORT:NAME`` or ``ADDRESS%NAME``; a preset may have options, too.

    :raises ValueError: saying what is wrong with it and what would be right.
    """
    spec = spec.strip()
    found = _SPEC.fullmatch(spec)
    if not found:
        raise ValueError(f"{spec!r} is not an upstream; {_WRITE}")
    if (scheme := (found["scheme"] or "tls").lower()) != "tls":
        raise ValueError(f"{spec!r}: only tls:// upstreams are spoken to, not {scheme}://")
    pins, weight = _more(spec, "&".join(filter(None, (found["before"], found["after"]))))
    if found["scheme"] is None and found["name"] is None and found["where"].lower() in PRESETS:
        return preset(found["where"].lower(), pins, weight)
    where = _where(spec, found["where"], is_uri=found["scheme"] is not None)
    if where.name and found["name"] is not None:
        raise ValueError(f"{spec!r} gives two names")
    return from_parts(where.host, where.port, found["name"] or where.name, pins, weight)


_WRITE = "write tls://ADDRESS:PORT#NAME, as tls://1.1.1.1#cloudflare-dns.com"


class _Where(NamedTuple):
    """
    What stands before the first # or ?: an address, with its zone if it has one, or a host name.
    """

    host: str
    port: str | None = None
    name: str | None = None


def _where(spec: str, text: str, *, is_uri: bool = False) -> _Where:
    """
    Return address, port and name.  IPv6 without brackets is all address, but for a port after an @.
    """
    word = None
    if found := _PERCENT.fullmatch(text):
        before, word, after = found.groups()
        text = f"[{before}]{after}" if is_ip(before) else before + after
        if is_uri and word.startswith("25") and word != "25":
            word = word[2:]
    where = _without_percent(spec, text)
    return where if word is None else _with_word(spec, where, word)


def _without_percent(spec: str, text: str) -> _Where:
    bare, _, port = text.partition("@")
    if bare.count(":") > 1 and is_ip(bare):
        return _Where(bare, port or None)
    found = _WHERE.fullmatch(text)
    if not found:
        raise ValueError(f"{spec!r} is not an upstream; {_WRITE}, and IPv6 with a port as [ADDRESS]:PORT")
    host = found["host"] if found["v6"] is None else found["v6"]
    if host.lower() in PRESETS:
        raise ValueError(f"{spec!r}: {host!r} is a preset, which has addresses, ports and a name of its own")
    return _Where(host, found["port"], found["name"])


def _with_word(spec: str, where: _Where, word: str) -> _Where:
    """
    Return the same with what stood after a %: the zone of a link-local address (RFC 4007 §11), else the name.
    """
    if is_ip(where.host) and ip_address(where.host).is_link_local and ":" in where.host:
        return where._replace(host=f"{where.host}%{word}")
    if "." not in word.strip(".") or not _NAME.fullmatch(word.rstrip(".")):
        raise ValueError(
            f"{spec!r}: an interface (%{word}) can be given for a link-local address only, as fe80::1%eth0;"
            f" to any other address the system's routes lead; a name to verify is written #NAME"
        )
    if where.name:
        raise ValueError(f"{spec!r} gives two names")
    return where._replace(name=word)


def from_table(
    address: str, port: int | None = None, name: str | None = None, pins: tuple[str, ...] = (), weight: object = None
) -> UpstreamAddress:
    """
    Return the upstream that a table's values stand for; ``address`` may hold a port, or be a preset's name.

    :raises ValueError: saying which part is wrong.
    """
    if address.lower() in PRESETS:
        if port is not None or name is not None:
            raise ValueError(f"{address!r} is a preset, which has addresses, ports and a name of its own")
        return preset(address.lower(), pins, weight)
    where = _Where(address) if not re.search(r"[%:@]", address) else _where(address, address)
    if where.port is not None and port is not None:
        raise ValueError(f"{address!r} has a port already")
    if where.name is not None and name is not None:
        raise ValueError(f"{address!r} has a name already")
    return from_parts(where.host, where.port or port, where.name or name, pins, weight)


def from_parts(
    address: str,
    port: str | int | None = None,
    name: str | None = None,
    pins: tuple[str, ...] = (),
    weight: object = None,
) -> UpstreamAddress:
    """
    Return the upstream at ``address``.

    :raises ValueError: saying which part is wrong.
    """
    where = (_where_it_is(address), _port(port))
    is_name = not is_ip(where[0])
    checked = _name(name) if name else where[0] if is_name else None
    return UpstreamAddress(
        () if is_name else (where,),
        checked,
        tuple(parse_pin(pin) for pin in pins),
        weight=_weight(weight),
        host=where if is_name else None,
    )


def preset(name: str, pins: tuple[str, ...] = (), weight: object = None) -> UpstreamAddress:
    """
    Return the upstream a preset stands for; each pin is one that any of its servers may have.
    """
    authentication_name, addresses = PRESETS[name]
    return UpstreamAddress(
        tuple((address, DEFAULT_PORT) for address in addresses),
        authentication_name,
        tuple(parse_pin(pin) for pin in pins),
        preset=name,
        weight=_weight(weight),
    )


def is_ip(text: str) -> bool:
    """
    Whether this is an IP address, without a port and without brackets.
    """
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _where_it_is(text: str) -> str:
    if is_ip(text):
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
    if is_ip(bare := name.strip("[]")):
        kind = "IPv6" if isinstance(ip_address(bare), IPv6Address) else "IPv4"
        raise ValueError(f"{text!r} is an {kind} address; leave the name out to have the address verified")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not a host name")
    return name.lower()


def _weight(value: object) -> int:
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
