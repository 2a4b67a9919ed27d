"""
Parsers for single values of settings.

Decides which values are valid, and the text of the error for others.  Each function takes a value from TOML, the
environment or an option, and raises ``ValueError`` with a text that describes valid values.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dotproxy.config.choices import LogLevel, TlsVersion
from dotproxy.config.units import octets_of, plain, seconds_of, show_octets, show_seconds
from dotproxy.policy.access import Network
from dotproxy.policy.selection import Policy
from dotproxy.policy.special_names import SWITCHES
from dotproxy.upstream.spec import UpstreamAddress, endpoint_text, from_table, is_ip, parse_upstream
from dotproxy.wire.rewrite import ClientSubnet

DEFAULT_LISTEN_PORT = 5300

_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """
    The address and port of a listener.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return endpoint_text(self.host, self.port)


def parse_listen(value: object, default_port: int = DEFAULT_LISTEN_PORT) -> ListenAddress:
    """
    Return the address of a listener: ``ADDRESS``, ``ADDRESS:PORT``, ``[IPv6]:PORT`` or ``:PORT``.
    """
    text = string(value)
    host, port = text, str(default_port)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address; write [IPv6]:PORT, as [::1]:53")
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        host = host or "127.0.0.1"
    else:
        _refuse_ambiguous(text, default_port)
    try:
        address = str(ip_address(host))
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address to listen on; write ADDRESS:PORT, as 127.0.0.1:53 or [::1]:53"
        ) from None
    if not (port.isascii() and port.isdigit()) or int(port[:6]) > 65535:
        raise ValueError(f"{text!r}: port {port!r} is not a number from 0 to 65535")
    return ListenAddress(address, int(port))


def parse_listen_tls(value: object) -> ListenAddress:
    """
    Return the address of a listener for DNS over TLS; like ``parse_listen``, with default port 853.
    """
    return parse_listen(value, 853)


def _refuse_ambiguous(text: str, default_port: int) -> None:
    """
    Refuse an IPv6 address without brackets whose last group could be a port (RFC 5952 §6).
    """
    host, _, port = text.rpartition(":")
    if not (is_ip(host) and port.isascii() and port.isdigit()) or int(port[:6]) > 65535:
        return
    if is_ip(text):
        raise ValueError(
            f"{text!r} may mean two things: write [{host}]:{port} for port {port} of {host}, or"
            f" [{text}]:{default_port} for port {default_port} of {text}"
        )
    raise ValueError(f"{text!r} is not an address to listen on; write [{host}]:{port}")


def parse_upstream_value(value: object) -> UpstreamAddress:
    """
    Return an upstream from a SPEC, or from a table with ``address``, ``port``, ``name``, ``pin_sha256``, ``weight``.
    """
    if not isinstance(value, dict):
        return parse_upstream(string(value))
    table = dict(value)
    address, port, name = table.pop("address", None), table.pop("port", None), table.pop("name", None)
    pins, weight = table.pop("pin_sha256", []), table.pop("weight", None)
    if table:
        raise ValueError(
            f"an upstream has no {', '.join(sorted(table))}; it has address, port, name, pin_sha256, weight"
        )
    if address is None:
        raise ValueError("an upstream needs an address")
    if isinstance(pins, str):
        pins = [pins]
    if not isinstance(pins, list):
        raise ValueError(f"pin_sha256 {pins!r} is neither a string nor a list of strings")
    if port is not None and not isinstance(port, int):
        raise ValueError(f"port {port!r} is not a number from 1 to 65535")
    return from_table(string(address), port, None if name is None else string(name), tuple(map(string, pins)), weight)


@dataclass(frozen=True, slots=True)
class BootstrapServer:
    """
    A server for lookups of upstreams' names: an upstream, over TLS, or a server that is queried in cleartext.
    """

    upstream: UpstreamAddress | None
    plain: tuple[str, int] | None

    def __str__(self) -> str:
        return str(self.upstream) if self.plain is None else f"udp://{endpoint_text(*self.plain)}"


def parse_bootstrap(value: object) -> BootstrapServer:
    """
    Return a bootstrap server: ``tls://ADDRESS#NAME`` or a preset, or ``udp://ADDRESS[:PORT]`` for plain DNS.
    """
    text = string(value)
    if text.lower().startswith("udp://"):
        listen = parse_listen(text[6:], 53)
        return BootstrapServer(None, (listen.host, listen.port))
    upstream = parse_upstream(text)
    if upstream.host:
        raise ValueError(f"{text!r} would have to be looked up itself; give its address")
    return BootstrapServer(upstream, None)


def string(value: object) -> str:
    """
    Return a string without surrounding whitespace.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value.strip()


def parse_new_file(value: object) -> Path:
    """
    Return the absolute path of a file that may not exist yet; its directory must exist.
    """
    path = Path(string(value)).expanduser().absolute()
    try:
        is_directory, has_directory = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # no permission for a directory above it
        raise ValueError(f"{str(path)!r} cannot be looked at: {(error.strerror or str(error)).lower()}") from None
    if is_directory:
        raise ValueError(f"{str(path)!r} is a directory; a file is wanted")
    if not has_directory:
        raise ValueError(f"{str(path)!r} cannot be written: there is no directory {str(path.parent)!r}")
    return path


def parse_certificates(value: object) -> Path:
    """
    Return the path of a readable file of PEM certificates.
    """
    path = Path(string(value))
    try:
        path = path.expanduser()
        pem = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{str(path)!r} cannot be read: {reason.lower()}") from None
    try:
        found = len(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise ValueError(f"{str(path)!r} holds no PEM certificate that can be read") from None
    if found < (begun := pem.count(b"-----BEGIN CERTIFICATE-----")):  # the parser skips a truncated certificate
        raise ValueError(f"{str(path)!r} is cut off: {begun} certificates begin in it, {found} can be read")
    return path


def parse_key(value: object) -> Path:
    """
    Return the path of a readable file with a private key in PEM, without a passphrase.
    """
    path = Path(string(value))
    try:
        path = path.expanduser()
        load_pem_private_key(path.read_bytes(), None)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{str(path)!r} cannot be read: {reason.lower()}") from None
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{str(path)!r} holds no PEM key that can be read without a passphrase") from None
    return path


def parse_tls_version(value: object) -> TlsVersion:
    """
    Return a version of TLS.
    """
    version = str(value).lower().removeprefix("tlsv").removeprefix("tls").strip()
    return _choice(TlsVersion, version, f"{value!r} is not a version of TLS to insist on; there are 1.2 and 1.3")


def parse_ciphers(value: object) -> str:
    """
    Return an OpenSSL cipher list in which every cipher suite encrypts.
    """
    text = string(value)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.set_ciphers(text)
    except ssl.SSLError:
        raise ValueError(
            f"{text!r} is not a list of ciphers as OpenSSL spells it, as ECDHE+AESGCM:ECDHE+CHACHA20"
        ) from None
    if plaintext := next((one["name"] for one in context.get_ciphers() if not one["strength_bits"]), None):
        raise ValueError(f"{text!r} has {plaintext}, which does not encrypt; add :!eNULL")
    return text


def parse_policy(value: object) -> Policy:
    """
    Return a policy by its name.
    """
    name = string(value).replace("-", "_")
    return _choice(Policy, name, f"{value!r} is not a policy; there are {', '.join(Policy)}")


def parse_yes_or_no(value: object) -> bool:
    """
    Return a boolean from yes, true, on, 1, no, false, off or 0.
    """
    known = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
    if (answer := known.get(str(value).strip().lower())) is None:
        raise ValueError(f"{value!r} is neither yes nor no")
    return answer


def parse_special_family(value: object) -> str:
    """
    Return the name of a family of special names, or of one of the private top-level domains.
    """
    name = string(value).lower().rstrip(".").replace("-", "_")
    if name not in SWITCHES and name != "none":
        raise ValueError(f"{value!r} is not a special name; there are {', '.join(SWITCHES)}, or none")
    return name


def parse_client_subnet(value: object) -> ClientSubnet:
    """
    Return a mode of EDNS client subnet.
    """
    problem = f"{value!r} is not a way to treat client subnets; there are {', '.join(ClientSubnet)}"
    return _choice(ClientSubnet, string(value).lower(), problem)


def parse_log_level(value: object) -> LogLevel:
    """
    Return a log level.
    """
    problem = f"{value!r} is not a log level; there are {' and '.join(LogLevel)}"
    return _choice(LogLevel, string(value).lower(), problem)


def parse_network(value: object) -> Network:
    """
    Return an IPv4 or IPv6 network; a single address is a network, too.
    """
    text = string(value)
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; write ADDRESS/LENGTH, as 192.0.2.0/24 or 2001:db8::/32") from None


@dataclass(frozen=True, slots=True)
class _Unit:
    """
    The parser and formatter for numbers with units, and examples of them.
    """

    read: Callable[[str], Fraction]
    show: Callable[[float], str]
    examples: str


_UNITS = {
    "seconds": _Unit(seconds_of, show_seconds, "500ms, 90s, 1h30m"),
    "octets": _Unit(octets_of, show_octets, "64k, 128M, 1GiB"),
}


def number(low: float, high: float, unit: str, *, whole: bool = False) -> Callable[[object], float]:
    """
    Return a parser for numbers from ``low`` to ``high``; seconds and octets may be strings with units.
    """
    kind = "a whole number" if whole else "a number"
    suffix = f" of {unit}" if unit else ""
    limits = f"from {_limit(low, unit)} to {_limit(high, unit)}"
    spelling = _UNITS.get(unit)

    def parse(value: object) -> float:
        try:
            number = _read_number(value, spelling, whole=whole)
        except (TypeError, ValueError, OverflowError):
            hint = f"; write {unit}, or {spelling.examples}" if spelling and isinstance(value, str) else ""
            raise ValueError(f"{value!r} is not {kind}{suffix} {limits}{hint}") from None
        if not low <= number <= high:
            raise ValueError(f"{value!r} is not {kind}{suffix} {limits}")
        return number

    return parse


def _read_number(value: object, spelling: _Unit | None, *, whole: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    try:
        return int(str(value)) if whole else float(value)
    except ValueError:
        if spelling is None or not isinstance(value, str):
            raise
    number = spelling.read(value)
    if whole and number.denominator != 1:
        raise ValueError(value)
    return int(number) if whole else float(number)


def _limit(limit: float, unit: str) -> str:
    """
    Return a limit in digits, followed by a form with a larger unit if it is a multiple of one.
    """
    step = {"seconds": 60, "octets": 1024}.get(unit, 0)
    if not step or limit <= step or limit % step:
        return plain(limit)
    return f"{plain(limit)} ({_UNITS[unit].show(limit)})"


def parse_workers(value: object) -> int | Literal["auto"]:
    """
    Return the number of worker processes, or "auto".
    """
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return int(number(1, 256, "processes", whole=True)(value))
    except ValueError as error:
        raise ValueError(f"{error}, nor auto") from None


def one_of(*choices: _Choice) -> Callable[[object], _Choice]:
    """
    Return a parser for these members of an enum, by their values.
    """
    by_word = {choice.value: choice for choice in choices}

    def parse(value: object) -> _Choice:
        choice = by_word.get(string(value).lower())
        if choice is None:
            raise ValueError(f"{value!r} is none of {', '.join(by_word)}")
        return choice

    return parse


def _choice(choices: type[_Choice], word: str, problem: str) -> _Choice:
    try:
        return choices(word)
    except ValueError:
        raise ValueError(problem) from None


def parse_admin_host(value: object) -> str:
    """
    Return a host name in lower case, or "*".
    """
    name = string(value).strip().lower().removesuffix(".")
    if name != "*" and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
        raise ValueError(f"{value!r} is no host name; write it without a port, or * for any")
    return name
