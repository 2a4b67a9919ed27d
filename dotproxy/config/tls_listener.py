"""
Settings of the listeners for DNS over TLS, and of listeners behind load balancers.

Decides their names, defaults and help texts.  ``schema`` joins them with all other settings.
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
        "Addresses of the listeners for DNS over TLS (RFC 7858); the default port is 853. None by default. Needs"
        " tls_certificate and tls_key. May be repeated.",
        is_list=True,
    ),
    Setting(
        "tls_certificate",
        None,
        parse_certificates,
        "PEM",
        "Certificate that the TLS listeners present to clients, followed by its chain. Reloaded when the file changes.",
    ),
    Setting(
        "tls_key",
        None,
        parse_key,
        "PEM",
        "Private key of tls_certificate, without a passphrase. Reloaded when the file changes.",
    ),
    Setting(
        "tls_client_ca",
        None,
        parse_certificates,
        "PEM",
        "CAs of client certificates (mutual TLS): the TLS listeners serve only clients with a certificate from one of"
        " them.",
        is_guarded=True,
    ),
    Setting(
        "proxy_protocol_from",
        (),
        parse_network,
        "NETWORK",
        "Load balancers (dnsdist, haproxy, nginx, Kubernetes) that send the client's address in PROXY protocol version"
        " 2: each datagram and connection from them must begin with such a header. May be repeated.",
        is_list=True,
        is_guarded=True,
    ),
)
