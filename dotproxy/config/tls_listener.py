"""
The settings of listeners for DNS over TLS and behind balancers, as data; see ``schema``.
"""

from __future__ import annotations

from dotproxy.config.setting import Setting
from dotproxy.config.values import parse_certificates, parse_key, parse_listen_tls, parse_network

TLS_LISTENER: tuple[Setting, ...] = (
    Setting(
        "listen_tls",
        (),
        parse_listen_tls,
        "ADDR:PORT",
        "Where to take DNS over TLS (RFC 7858), port 853 unless given; nowhere by default. Needs tls_certificate and"
        " tls_key. May be repeated.",
        is_list=True,
    ),
    Setting(
        "tls_certificate",
        None,
        parse_certificates,
        "PEM",
        "The certificate shown to clients over TLS, followed by its chain. Read again when the file changes.",
    ),
    Setting(
        "tls_key",
        None,
        parse_key,
        "PEM",
        "The key of tls_certificate, without a passphrase. Read again when the file changes.",
    ),
    Setting(
        "tls_client_ca",
        None,
        parse_certificates,
        "PEM",
        "Serve only those clients over TLS that show a certificate of one of these CAs (mutual TLS).",
        is_guarded=True,
    ),
    Setting(
        "proxy_protocol_from",
        (),
        parse_network,
        "NETWORK",
        "Balancers (dnsdist, haproxy, nginx, Kubernetes) that tell the client's address by the PROXY protocol, version"
        " 2: each datagram and connection from there must begin with a header. May be repeated.",
        is_list=True,
        is_guarded=True,
    ),
)
