"""
What can be configured: every setting, as data.

Decides names, defaults, units, ranges and help texts; options, environment variables, TOML keys, the
documentation and the example file all come from here.  Imports no Twisted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from cryptography import x509

from dotproxy.policy.admission import Network
from dotproxy.policy.selection import POLICIES
from dotproxy.policy.special import FAMILIES
from dotproxy.upstream.address import UpstreamAddress, endpoint_text, from_parts, parse_upstream

DEFAULT_LISTEN_PORT = 5300

#: Loopback and private networks: nobody else can be meant by a laptop or a cluster.
PRIVATE_NETWORKS = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """
    Where to listen, over UDP and TCP.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return endpoint_text(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Config:
    """
    A whole configuration, checked.  Times are in seconds, sizes in octets.
    """

    listen: tuple[ListenAddress, ...]
    upstream: tuple[UpstreamAddress, ...]
    ca_file: Path | None
    policy: str
    allow_from: tuple[Network, ...]
    query_timeout: float
    attempt_timeout: float
    connect_timeout: float
    upstream_idle_timeout: float
    tcp_idle_timeout: float
    tcp_max_connections: int
    tcp_max_outstanding: int
    udp_max_size: int
    forward_special: tuple[str, ...]
    transparent: bool
    padding: int
    client_subnet: str
    max_outstanding: int
    log_level: str


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One setting.

    ``parse`` takes one value as TOML or a string has it and raises ``ValueError`` that says what would be
    right.  ``is_list``: it takes any number of values; as a string they are split at commas and spaces.
    """

    key: str
    default: Any
    parse: Callable[[Any], Any]
    metavar: str
    help: str
    short: str | None = None
    is_list: bool = False

    @property
    def option(self) -> str:
        """
        The long command-line option, without dashes.
        """
        return self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """
        The environment variable.
        """
        return "DOTPROXY_" + self.key.upper()


def parse_listen(value: Any, default_port: int = DEFAULT_LISTEN_PORT) -> ListenAddress:
    """
    Return where to listen: ``ADDRESS``, ``ADDRESS:PORT``, ``[IPv6]:PORT`` or ``:PORT``.
    """
    text = _string(value)
    host, port = text, str(default_port)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address; write [IPv6]:PORT, as [::1]:53")
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        host = host or "127.0.0.1"
    try:
        address = str(ip_address(host))
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address to listen on; write ADDRESS:PORT, as 127.0.0.1:53 or [::1]:53"
        ) from None
    if not (port.isascii() and port.isdigit()) or int(port[:6]) > 65535:
        raise ValueError(f"{text!r}: port {port!r} is not a number from 0 to 65535")
    return ListenAddress(address, int(port))


def parse_upstream_value(value: Any) -> UpstreamAddress:
    """
    Return an upstream given as a SPEC or as a table with ``address``, ``port``, ``name``, ``pin_sha256``.
    """
    if not isinstance(value, dict):
        return parse_upstream(_string(value))
    table = dict(value)
    address, port, name = table.pop("address", None), table.pop("port", None), table.pop("name", None)
    pins = table.pop("pin_sha256", [])
    if table:
        raise ValueError(f"an upstream has no {', '.join(sorted(table))}; it has address, port, name, pin_sha256")
    if address is None:
        raise ValueError("an upstream needs an address")
    if isinstance(pins, str):
        pins = [pins]
    if not isinstance(pins, list):
        raise ValueError(f"pin_sha256 {pins!r} is neither a string nor a list of strings")
    if port is not None and not isinstance(port, int):
        raise ValueError(f"port {port!r} is not a number from 1 to 65535")
    return from_parts(_string(address), port, None if name is None else _string(name), tuple(map(_string, pins)))


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value.strip()


def _certificates(value: Any) -> Path:
    path = Path(_string(value))
    try:
        path = path.expanduser()
        pem = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: a home that is not there
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{str(path)!r} cannot be read: {reason.lower()}") from None
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{str(path)!r} holds no PEM certificate that can be read") from None
    return path


def _policy(value: Any) -> str:
    name = _string(value).replace("-", "_")
    if name not in POLICIES:
        raise ValueError(f"{value!r} is not a policy; there are {', '.join(POLICIES)}")
    return name


def _yes_or_no(value: Any) -> bool:
    known = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
    if (answer := known.get(str(value).strip().lower())) is None:
        raise ValueError(f"{value!r} is neither yes nor no")
    return answer


def _special_family(value: Any) -> str:
    name = _string(value).lower().rstrip(".").replace("-", "_")
    if name not in FAMILIES and name != "none":
        raise ValueError(f"{value!r} is not a special name; there are {', '.join(FAMILIES)}, or none")
    return name


def _client_subnet(value: Any) -> str:
    how = _string(value).lower()
    if how not in ("private", "off", "pass"):
        raise ValueError(f"{value!r} is not a way to treat client subnets; there are private, off, pass")
    return how


def _log_level(value: Any) -> str:
    level = _string(value).lower()
    if level not in ("info", "debug"):
        raise ValueError(f"{value!r} is not a log level; there are info and debug")
    return level


def _network(value: Any) -> Network:
    text = _string(value)
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; write ADDRESS/LENGTH, as 192.0.2.0/24 or 2001:db8::/32") from None


def _number(low: float, high: float, unit: str, *, whole: bool = False) -> Callable[[Any], Any]:
    kind = "a whole number" if whole else "a number"
    suffix = f" of {unit}" if unit else ""

    def parse(value: Any) -> float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = int(str(value)) if whole else float(value)
            if not low <= number <= high:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{value!r} is not {kind}{suffix} from {low:g} to {high:g}") from None
        return number

    return parse


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "listen",
        (f"127.0.0.1:{DEFAULT_LISTEN_PORT}",),
        parse_listen,
        "ADDR:PORT",
        "Where to take plain DNS, over UDP and TCP; IPv6 as [ADDR]:PORT. May be repeated.",
        short="l",
        is_list=True,
    ),
    Setting(
        "upstream",
        ("cloudflare", "quad9"),
        parse_upstream_value,
        "SPEC",
        "Who to ask, over TLS: tls://ADDR[:PORT][#NAME][?pin-sha256=BASE64], or a preset such as cloudflare."
        " The certificate must be for NAME, without one for ADDR. May be repeated.",
        short="u",
        is_list=True,
    ),
    Setting("ca_file", None, _certificates, "PEM", "CAs to trust instead of the system's.", short="c"),
    Setting(
        "policy",
        "failover",
        _policy,
        "NAME",
        "Which upstream is asked first: failover (as given), round_robin, or random.",
    ),
    Setting(
        "allow_from",
        PRIVATE_NETWORKS,
        _network,
        "NETWORK",
        "Clients to serve; others are refused. May be repeated. Default: loopback and private networks.",
        is_list=True,
    ),
    Setting(
        "query_timeout",
        4.0,
        _number(0.1, 60, "seconds"),
        "SECONDS",
        "When a client gets SERVFAIL at the latest. Stub resolvers wait 5 s.",
    ),
    Setting(
        "attempt_timeout",
        1.5,
        _number(0.05, 60, "seconds"),
        "SECONDS",
        "When a question without an answer is asked of another upstream too.",
    ),
    Setting(
        "connect_timeout",
        3.0,
        _number(0.1, 60, "seconds"),
        "SECONDS",
        "How long connecting to an upstream may take, TLS handshake included.",
    ),
    Setting(
        "upstream_idle_timeout",
        30.0,
        _number(0.1, 3600, "seconds"),
        "SECONDS",
        "When an unused connection to an upstream is closed. Many upstreams close theirs after about 10 s,"
        " which is no failure.",
    ),
    Setting(
        "tcp_idle_timeout",
        10.0,
        _number(0.1, 3600, "seconds"),
        "SECONDS",
        "When an unused connection from a client is closed.",
    ),
    Setting(
        "tcp_max_connections",
        256,
        _number(1, 65535, "", whole=True),
        "N",
        "How many clients may be connected over TCP; the one longest idle makes room for a new one.",
    ),
    Setting(
        "tcp_max_outstanding",
        128,
        _number(1, 65535, "", whole=True),
        "N",
        "How many unanswered questions a TCP client may have before it is read no further.",
    ),
    Setting(
        "udp_max_size",
        1232,
        _number(512, 65507, "octets", whole=True),
        "OCTETS",
        "The longest answer sent over UDP, whatever the client says it takes.",
    ),
    Setting(
        "forward_special",
        ("test",),
        _special_family,
        "NAME",
        "Special names to ask upstreams about all the same; the others are answered here. Of "
        + ", ".join(FAMILIES)
        + "; or none.",
        is_list=True,
    ),
    Setting(
        "transparent",
        False,
        _yes_or_no,
        "BOOL",
        "Pass EDNS on untouched, both ways: no padding, no privacy for client subnet, all options as they come.",
    ),
    Setting(
        "padding",
        128,
        _number(0, 4096, "octets", whole=True),
        "OCTETS",
        "Pad every question to a multiple of this, so that its length does not tell its name; 0 for no padding.",
    ),
    Setting(
        "client_subnet",
        "private",
        _client_subnet,
        "HOW",
        "EDNS client subnet: private (ask upstreams to use none), off (say nothing), or pass (what clients send).",
    ),
    Setting(
        "max_outstanding",
        16384,
        _number(1, 1000000, "", whole=True),
        "N",
        "How many questions may be unanswered in all; beyond that clients get SERVFAIL at once.",
    ),
    Setting(
        "log_level",
        "info",
        _log_level,
        "LEVEL",
        "info: a line for each change of state; debug: one for each connection, too.",
    ),
)

BY_KEY = {setting.key: setting for setting in SETTINGS}
