"""
How one value of a setting is read.

Decides what is a value, and what somebody who wrote something else is told: every function here takes a value as
TOML, the environment or an option has it, and raises ``ValueError`` that says what would be right.
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
    Where to listen.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return endpoint_text(self.host, self.port)


def parse_listen(value: object, default_port: int = DEFAULT_LISTEN_PORT) -> ListenAddress:
    """
    Return where to listen: ``ADDRESS``, ``ADDRESS:PORT``, ``[IPv6]:PORT`` or ``:PORT``.
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
    Return where to listen for DNS over TLS; as ``parse_listen``, but that the port is 853 unless it is given.
    """
    return parse_listen(value, 853)


def _refuse_ambiguous(text: str, default_port: int) -> None:
    """
    Refuse IPv6 without brackets whose last group may have been meant as a port (RFC 5952 §6).
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
    Return an upstream given as a SPEC or as a table with ``address``, ``port``, ``name``, ``pin_sha256``, ``weight``.
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
    Who looks up the names of upstreams: an upstream, over TLS, or a server that is asked in the clear.
    """

    upstream: UpstreamAddress | None
    plain: tuple[str, int] | None

    def __str__(self) -> str:
        return str(self.upstream) if self.plain is None else f"udp://{endpoint_text(*self.plain)}"


def parse_bootstrap(value: object) -> BootstrapServer:
    """
    Return who looks up names: ``tls://ADDRESS#NAME`` or a preset, or ``udp://ADDRESS[:PORT]`` for plain DNS.
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
    Return a string, without the space around it.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value.strip()


def parse_new_file(value: object) -> Path:
    """
    Return the path of a file that can be written, whether or not it is there.
    """
    path = Path(string(value)).expanduser().absolute()
    try:
        is_directory, has_directory = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # a directory above it that this user may not enter
        raise ValueError(f"{str(path)!r} cannot be looked at: {(error.strerror or str(error)).lower()}") from None
    if is_directory:
        raise ValueError(f"{str(path)!r} is a directory; a file is wanted")
    if not has_directory:
        raise ValueError(f"{str(path)!r} cannot be written: there is no directory {str(path.parent)!r}")
    return path


def parse_certificates(value: object) -> Path:
    """
    Return the path of a file of PEM certificates that can be read.
    """
    path = Path(string(value))
    try:
        path = path.expanduser()
        pem = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: a home that is not there
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{str(path)!r} cannot be read: {reason.lower()}") from None
    try:
        found = len(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise ValueError(f"{str(path)!r} holds no PEM certificate that can be read") from None
    if found < (begun := pem.count(b"-----BEGIN CERTIFICATE-----")):  # the reader passes over one that is cut off
        raise ValueError(f"{str(path)!r} is cut off: {begun} certificates begin in it, {found} can be read")
    return path


def parse_key(value: object) -> Path:
    """
    Return the path of a file with a private key, in PEM and without a passphrase, that can be read.
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
    Return a list of ciphers that OpenSSL understands.
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
    Return what a yes or no means.
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
    Return how client subnets are treated.
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
    Return a network, IPv4 or IPv6; an address is a network of one.
    """
    text = string(value)
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; write ADDRESS/LENGTH, as 192.0.2.0/24 or 2001:db8::/32") from None


@dataclass(frozen=True, slots=True)
class _Unit:
    """
    A unit that a number may be written with: how such text is read and shown, and examples.
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
    Return a function that reads numbers from ``low`` to ``high``; of seconds and octets also as text with a unit.
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
    A limit in digits, and with a unit where that is easier to read.
    """
    step = {"seconds": 60, "octets": 1024}.get(unit, 0)
    if not step or limit <= step or limit % step:
        return plain(limit)
    return f"{plain(limit)} ({_UNITS[unit].show(limit)})"


def parse_workers(value: object) -> int | Literal["auto"]:
    """
    Return how many processes, or "auto".
    """
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return int(number(1, 256, "processes", whole=True)(value))
    except ValueError as error:
        raise ValueError(f"{error}, nor auto") from None


def one_of(*choices: _Choice) -> Callable[[object], _Choice]:
    """
    Return a function that reads one of these members of an enum by its value.
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
