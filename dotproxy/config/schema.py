"""
What can be configured: every setting, as data.

Decides names, defaults, units, ranges and help texts; options, environment variables, TOML keys, the
documentation and the example file all come from here.  Imports no Twisted.
"""

from __future__ import annotations

from dotproxy.config.caching import CACHING
from dotproxy.config.choices import TlsVersion, UdpTruncation
from dotproxy.config.operation import OPERATION
from dotproxy.config.setting import Setting
from dotproxy.config.tls_listener import TLS_LISTENER
from dotproxy.config.values import (
    DEFAULT_LISTEN_PORT,
    number,
    one_of,
    parse_bootstrap,
    parse_certificates,
    parse_ciphers,
    parse_client_subnet,
    parse_key,
    parse_listen,
    parse_network,
    parse_policy,
    parse_special_family,
    parse_tls_version,
    parse_upstream_value,
    parse_workers,
    parse_yes_or_no,
)
from dotproxy.policy.access import LimitAction
from dotproxy.policy.selection import Policy
from dotproxy.policy.special_names import FAMILIES, PRIVATE_TLDS
from dotproxy.wire.rewrite import ClientSubnet

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
    *TLS_LISTENER,
    Setting(
        "upstream",
        ("cloudflare", "quad9"),
        parse_upstream_value,
        "SPEC",
        "Who to ask, over TLS: tls://ADDR[:PORT][#NAME][?pin-sha256=BASE64], or a preset such as cloudflare."
        " The certificate must be for NAME, without one for ADDR. May be repeated.",
        short="u",
        is_list=True,
        is_guarded=True,
    ),
    Setting(
        "bootstrap",
        (),
        parse_bootstrap,
        "SERVER",
        "Who looks up the names of upstreams given by name: tls://ADDR#NAME or a preset, or udp://ADDR, which asks in"
        " the clear, for these names and nothing else. By default the upstreams given by address. May be repeated.",
        is_list=True,
        is_guarded=True,
    ),
    Setting(
        "ca_file",
        None,
        parse_certificates,
        "PEM",
        "CAs to trust instead of the system's: roots, or intermediate CAs without theirs.",
        short="c",
        is_guarded=True,
    ),
    Setting(
        "client_certificate",
        None,
        parse_certificates,
        "PEM",
        "A certificate, or chain, to show to upstreams that ask for one; needs client_key.",
        is_guarded=True,
    ),
    Setting("client_key", None, parse_key, "PEM", "The key of client_certificate, without a passphrase."),
    Setting(
        "tls_minimum",
        TlsVersion.TLS_1_2,
        parse_tls_version,
        "VERSION",
        "The oldest version of TLS spoken: 1.2 or 1.3.",
        is_guarded=True,
    ),
    Setting(
        "tls_ciphers",
        None,
        parse_ciphers,
        "LIST",
        "Ciphers for TLS 1.2, as OpenSSL spells a list. Default: ECDHE+AESGCM:ECDHE+CHACHA20.",
        is_guarded=True,
    ),
    Setting(
        "policy",
        Policy.FAILOVER,
        parse_policy,
        "NAME",
        "Which upstream is asked first: failover (as given), round_robin, random, fastest, least_outstanding, hash"
        " (each domain always of the same, so that none sees all), or race (all at once).",
    ),
    Setting(
        "allow_from",
        PRIVATE_NETWORKS,
        parse_network,
        "NETWORK",
        "Clients to serve; others are refused. May be repeated. Default: loopback and private networks.",
        is_list=True,
        is_guarded=True,
    ),
    Setting(
        "not_allowed",
        LimitAction.REFUSE,
        one_of(LimitAction.REFUSE, LimitAction.DROP),
        "HOW",
        "What other clients get: refuse (REFUSED) or drop (no response).",
    ),
    Setting(
        "client_rate",
        1000.0,
        number(0, 10_000_000, "queries a second"),
        "QPS",
        "While there is more to do than can be done, a client is held to this many queries a second over UDP, if there"
        " are others; 0 for no limit. With workers, each has its part.",
    ),
    Setting(
        "client_prefix_v4",
        32,
        number(1, 32, "bits", whole=True),
        "BITS",
        "How many bits of an IPv4 address are one client.",
    ),
    Setting(
        "client_prefix_v6",
        56,
        number(1, 128, "bits", whole=True),
        "BITS",
        "How many bits of an IPv6 address are one client; link-local addresses are one each.",
    ),
    Setting(
        "client_exempt",
        (),
        parse_network,
        "NETWORK",
        "Clients without limits of their own, such as a resolver or a balancer with many clients behind it. May be"
        " repeated.",
        is_list=True,
    ),
    Setting(
        "over_limit",
        LimitAction.TRUNCATE,
        one_of(*LimitAction),
        "HOW",
        "What a client gets over UDP that is over its share: truncate (TC=1, so that it asks again over TCP), refuse"
        " (REFUSED) or drop (no response).",
    ),
    Setting(
        "response_rate_limit",
        20,
        number(0, 1_000_000, "responses a second", whole=True),
        "RPS",
        "How many identical responses, or errors, a client network (/24 or /56) gets in a second over UDP, if its"
        " addresses are public: they may be forged; 0 for no limit.",
    ),
    Setting(
        "response_rate_slip",
        2,
        number(0, 10, "", whole=True),
        "N",
        "Of responses over response_rate_limit one in N is sent truncated and empty, the others are dropped; 0: all are"
        " dropped.",
    ),
    Setting(
        "query_timeout",
        4.0,
        number(0.1, 60, "seconds"),
        "SECONDS",
        "When a client gets SERVFAIL at the latest. Stub resolvers wait 5 s.",
    ),
    Setting(
        "attempt_timeout",
        1.5,
        number(0.05, 60, "seconds"),
        "SECONDS",
        "The longest a question waits for an answer before it is asked again, or of another upstream. Once it is known"
        " what an upstream's answers take, it is twice that, and at least 0.25 s.",
    ),
    Setting(
        "hedge_percent",
        3.0,
        number(0, 50, "percent"),
        "PERCENT",
        "Of all questions, how many at most are asked of a second upstream as soon as they are slower than nearly all"
        " others; 0 for none. With the policy hash there are none.",
    ),
    Setting(
        "connect_timeout",
        2.0,
        number(0.1, 60, "seconds"),
        "SECONDS",
        "How long connecting to an upstream may take, TLS handshake included.",
    ),
    Setting(
        "upstream_idle_timeout",
        30.0,
        number(0.1, 3600, "seconds"),
        "SECONDS",
        "When an unused connection to an upstream is closed. Many upstreams close theirs after about 10 s,"
        " which is no failure.",
    ),
    Setting(
        "tcp_idle_timeout",
        10.0,
        number(0.1, 3600, "seconds"),
        "SECONDS",
        "When an unused connection from a client is closed.",
    ),
    Setting(
        "tcp_max_connections",
        256,
        number(1, 65535, "", whole=True),
        "N",
        "How many clients may be connected over TCP and TLS. When there are so many, the client prefix with most"
        " connections makes room for others, with the one longest idle first.",
    ),
    Setting(
        "tcp_max_outstanding",
        128,
        number(1, 65535, "", whole=True),
        "N",
        "How many unanswered questions a TCP client may have before it is read no further.",
    ),
    Setting(
        "udp_max_size",
        1232,
        number(512, 65507, "octets", whole=True),
        "OCTETS",
        "The longest answer sent over UDP, whatever the client says it takes.",
    ),
    Setting(
        "udp_truncation",
        UdpTruncation.PARTIAL,
        one_of(*UdpTruncation),
        "HOW",
        "What a client gets over UDP that asks for more than fits: partial, as many records as fit, for stubs that do"
        " not ask again over TCP; or empty, no records: then nobody gets more octets by a truncated answer than it"
        " sent, but for a cookie.",
    ),
    Setting(
        "workers",
        1,
        parse_workers,
        "N",
        "How many processes serve, or auto: as many as there are processors for them. They share cache_size,"
        " cache_memory, max_outstanding and tcp_max_connections.",
    ),
    Setting(
        "udp_batched",
        True,
        parse_yes_or_no,
        "BOOL",
        "Read and write many datagrams with one system call, where the system can (Linux); else one by one.",
    ),
    Setting(
        "forward_special",
        ("doh_canary",),
        parse_special_family,
        "NAME",
        "Special names to ask upstreams about all the same; the others are answered here. Of "
        + ", ".join(FAMILIES)
        + f"; or none. private_tlds are {', '.join(PRIVATE_TLDS)}, each of which may be named alone.",
        is_list=True,
    ),
    Setting(
        "transparent",
        False,
        parse_yes_or_no,
        "BOOL",
        "Pass EDNS on as it comes, both ways: no privacy for client subnet, all options but padding, which is added to "
        "queries that have an OPT and taken from responses.",
    ),
    Setting(
        "udp_cookies",
        False,
        parse_yes_or_no,
        "BOOL",
        "Give clients that send DNS cookies over UDP one of ours, so that they can tell our answers from forged ones.",
    ),
    Setting(
        "minimal_any",
        True,
        parse_yes_or_no,
        "BOOL",
        "Answer ANY over UDP with one record that says it is not answered (RFC 8482), instead of asking.",
    ),
    Setting(
        "max_transfers",
        4,
        number(0, 1000, "", whole=True),
        "N",
        "How many zone transfers (AXFR, IXFR over TCP) may be under way, each over a connection of its own; 0: none.",
    ),
    Setting(
        "padding",
        128,
        number(0, 4096, "octets", whole=True),
        "OCTETS",
        "Pad every question to a multiple of this, so that its length does not tell its name; 0 for no padding.",
    ),
    Setting(
        "client_subnet",
        ClientSubnet.PRIVATE,
        parse_client_subnet,
        "HOW",
        "EDNS client subnet: private (ask upstreams to use none), off (say nothing), or pass (what clients send).",
    ),
    Setting(
        "max_outstanding",
        16384,
        number(1, 1000000, "", whole=True),
        "N",
        "How many questions may be unanswered in all; beyond that clients get SERVFAIL at once.",
    ),
    *CACHING,
    *OPERATION,
)

BY_KEY = {setting.key: setting for setting in SETTINGS}
