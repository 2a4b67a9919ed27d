"""
The schema: every setting, as data.

Decides names, defaults, units, ranges and help texts.  Command-line options, environment variables, TOML keys, the
tables of the documentation and the example file are generated from it.  Imports no Twisted.
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

#: The default of ``allow_from``: loopback, private, link-local and shared (RFC 6598) networks.
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
        "Addresses of the listeners for plain DNS, over UDP and TCP; IPv6 as [ADDR]:PORT. May be repeated.",
        short="l",
        is_list=True,
    ),
    *TLS_LISTENER,
    Setting(
        "upstream",
        ("cloudflare", "quad9"),
        parse_upstream_value,
        "SPEC",
        "DNS-over-TLS server to forward queries to: tls://ADDR[:PORT][#NAME][?pin-sha256=BASE64], or a preset such as"
        " cloudflare. Its certificate must be valid for NAME, or for ADDR if there is no NAME. May be repeated.",
        short="u",
        is_list=True,
        is_guarded=True,
    ),
    Setting(
        "bootstrap",
        (),
        parse_bootstrap,
        "SERVER",
        "Server that resolves the names of upstreams configured by name: tls://ADDR#NAME, a preset, or udp://ADDR."
        " udp://ADDR is queried in cleartext, for these names only. Default: the upstreams configured by address. May"
        " be repeated.",
        is_list=True,
        is_guarded=True,
    ),
    Setting(
        "ca_file",
        None,
        parse_certificates,
        "PEM",
        "CA certificates to trust instead of the system's: root CAs, or intermediate CAs without their roots.",
        short="c",
        is_guarded=True,
    ),
    Setting(
        "client_certificate",
        None,
        parse_certificates,
        "PEM",
        "Certificate, or chain, for upstreams that request a client certificate; needs client_key.",
        is_guarded=True,
    ),
    Setting("client_key", None, parse_key, "PEM", "Private key of client_certificate, without a passphrase."),
    Setting(
        "tls_minimum",
        TlsVersion.TLS_1_2,
        parse_tls_version,
        "VERSION",
        "Minimum TLS version, for upstreams and for the TLS listeners: 1.2 or 1.3.",
        is_guarded=True,
    ),
    Setting(
        "tls_ciphers",
        None,
        parse_ciphers,
        "LIST",
        "Cipher suites for TLS 1.2, as an OpenSSL cipher list. Default: ECDHE+AESGCM:ECDHE+CHACHA20.",
        is_guarded=True,
    ),
    Setting(
        "policy",
        Policy.FAILOVER,
        parse_policy,
        "NAME",
        "Order in which upstreams are preferred: failover (as configured), round_robin, random, fastest,"
        " least_outstanding, hash (queries for one domain always go to the same upstream, so that no upstream sees all"
        " queries), or race (all at once).",
    ),
    Setting(
        "allow_from",
        PRIVATE_NETWORKS,
        parse_network,
        "NETWORK",
        "Networks of the clients that are served; other clients are rejected. May be repeated. Default: loopback and"
        " private networks.",
        is_list=True,
        is_guarded=True,
    ),
    Setting(
        "not_allowed",
        LimitAction.REFUSE,
        one_of(LimitAction.REFUSE, LimitAction.DROP),
        "HOW",
        "Response to clients outside allow_from: refuse (REFUSED) or drop (no response).",
    ),
    Setting(
        "client_rate",
        1000.0,
        number(0, 10_000_000, "queries a second"),
        "QPS",
        "Under overload, the maximum number of UDP queries per second from one client, if other clients are active; 0"
        " for no limit. Divided among the workers.",
    ),
    Setting(
        "client_prefix_v4",
        32,
        number(1, 32, "bits", whole=True),
        "BITS",
        "Prefix length of an IPv4 client: addresses with the same prefix count as one client.",
    ),
    Setting(
        "client_prefix_v6",
        56,
        number(1, 128, "bits", whole=True),
        "BITS",
        "Prefix length of an IPv6 client: addresses with the same prefix count as one client; each link-local address"
        " is a client of its own.",
    ),
    Setting(
        "client_exempt",
        (),
        parse_network,
        "NETWORK",
        "Networks of clients that have no limits per client, such as a resolver or a load balancer with many clients"
        " behind it. May be repeated.",
        is_list=True,
    ),
    Setting(
        "over_limit",
        LimitAction.TRUNCATE,
        one_of(*LimitAction),
        "HOW",
        "Response over UDP to a client above its limits: truncate (TC=1, so that it retries over TCP), refuse"
        " (REFUSED) or drop (no response).",
    ),
    Setting(
        "response_rate_limit",
        20,
        number(0, 1_000_000, "responses a second", whole=True),
        "RPS",
        "Maximum number of identical responses, or of errors, per second over UDP to one client network (/24 or /56)"
        " with public addresses, which may be forged; 0 for no limit.",
    ),
    Setting(
        "response_rate_slip",
        2,
        number(0, 10, "", whole=True),
        "N",
        "One in N responses above response_rate_limit is sent truncated and empty, the others are dropped; 0 drops"
        " all.",
    ),
    Setting(
        "query_timeout",
        4.0,
        number(0.1, 60, "seconds"),
        "SECONDS",
        "A client gets SERVFAIL if there is no response within this time. Stub resolvers wait 5 s.",
    ),
    Setting(
        "attempt_timeout",
        1.5,
        number(0.05, 60, "seconds"),
        "SECONDS",
        "Longest wait for an upstream's response before the query is retried, at the same upstream or another. Once"
        " response times are known, the wait is twice the upstream's 95th percentile, and at least 0.25 s.",
    ),
    Setting(
        "hedge_percent",
        3.0,
        number(0, 50, "percent"),
        "PERCENT",
        "Maximum percentage of queries that are also sent to a second upstream when they take longer than 95 % of the"
        " first upstream's responses; 0 for none. Not used with policy hash.",
    ),
    Setting(
        "connect_timeout",
        2.0,
        number(0.1, 60, "seconds"),
        "SECONDS",
        "Timeout for connecting to an upstream, TLS handshake included.",
    ),
    Setting(
        "upstream_idle_timeout",
        30.0,
        number(0.1, 3600, "seconds"),
        "SECONDS",
        "An idle connection to an upstream is closed after this time. Many upstreams close idle connections after"
        " about 10 s; that does not count as a failure.",
    ),
    Setting(
        "tcp_idle_timeout",
        10.0,
        number(0.1, 3600, "seconds"),
        "SECONDS",
        "An idle connection from a client is closed after this time.",
    ),
    Setting(
        "tcp_max_connections",
        256,
        number(1, 65535, "", whole=True),
        "N",
        "Maximum number of client connections over TCP and TLS. At the limit, a new connection replaces one of the"
        " client prefix with most connections, the longest idle first.",
    ),
    Setting(
        "tcp_max_outstanding",
        128,
        number(1, 65535, "", whole=True),
        "N",
        "Maximum number of queries in flight of one TCP connection; no more are read from it until one of them has a"
        " response.",
    ),
    Setting(
        "udp_max_size",
        1232,
        number(512, 65507, "octets", whole=True),
        "OCTETS",
        "Maximum size of a response over UDP, even if the client accepts larger ones.",
    ),
    Setting(
        "udp_truncation",
        UdpTruncation.PARTIAL,
        one_of(*UdpTruncation),
        "HOW",
        "Content of a response that is truncated over UDP: partial (as many records as fit, for stubs that do not"
        " retry over TCP), or empty (no records: a truncated response is never larger than its query, except for a"
        " cookie).",
    ),
    Setting(
        "workers",
        1,
        parse_workers,
        "N",
        "Number of worker processes, or auto for the number of available processors. They share cache_size,"
        " cache_memory, max_outstanding and tcp_max_connections.",
    ),
    Setting(
        "udp_batched",
        True,
        parse_yes_or_no,
        "BOOL",
        "Read and send up to 64 datagrams with one system call, where the system supports it (Linux); otherwise one by"
        " one.",
    ),
    Setting(
        "forward_special",
        ("doh_canary",),
        parse_special_family,
        "NAME",
        "Special names to forward to upstreams; the others are answered locally. Any of "
        + ", ".join(FAMILIES)
        + f"; or none. private_tlds are {', '.join(PRIVATE_TLDS)}; each may be given alone.",
        is_list=True,
    ),
    Setting(
        "transparent",
        False,
        parse_yes_or_no,
        "BOOL",
        "Forward EDNS options unchanged in both directions, client subnet included. Only padding is changed: it is"
        " added to queries that have an OPT record, and removed from responses.",
    ),
    Setting(
        "udp_cookies",
        False,
        parse_yes_or_no,
        "BOOL",
        "Send server cookies (RFC 7873) to UDP clients that send a client cookie, so that they can detect forged"
        " responses.",
    ),
    Setting(
        "minimal_any",
        True,
        parse_yes_or_no,
        "BOOL",
        "Answer ANY queries over UDP with a single HINFO record (RFC 8482) instead of forwarding them.",
    ),
    Setting(
        "max_transfers",
        4,
        number(0, 1000, "", whole=True),
        "N",
        "Maximum number of concurrent zone transfers (AXFR, IXFR over TCP), each on its own upstream connection; 0 for"
        " none.",
    ),
    Setting(
        "padding",
        128,
        number(0, 4096, "octets", whole=True),
        "OCTETS",
        "Pad every query to a multiple of this size (RFC 8467), so that its length does not reveal the name; 0 for no"
        " padding.",
    ),
    Setting(
        "client_subnet",
        ClientSubnet.PRIVATE,
        parse_client_subnet,
        "HOW",
        "EDNS client subnet (RFC 7871): private (ask upstreams to use none), off (send no option), or pass (forward"
        " the client's option).",
    ),
    Setting(
        "max_outstanding",
        16384,
        number(1, 1000000, "", whole=True),
        "N",
        "Maximum number of queries in flight, of all clients together; further queries get SERVFAIL at once.",
    ),
    *CACHING,
    *OPERATION,
)

BY_KEY = {setting.key: setting for setting in SETTINGS}
