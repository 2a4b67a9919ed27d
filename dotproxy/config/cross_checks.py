"""
Checks of settings that depend on each other.

Decides which combinations are invalid, and the text of each error: the key and its source, then those of the other.
The validity of a single value is decided in ``values``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dotproxy.config.listener_certificate import disagreements_of_tls
from dotproxy.config.model import Config
from dotproxy.config.units import show_seconds
from dotproxy.config.values import ListenAddress

#: From a configuration and the source of each value, by key, to a line for each problem.
Check = Callable[[Config, Mapping[str, str]], Iterator[str]]


def disagreements(config: Config, sources: Mapping[str, str], unusable: Collection[str]) -> list[str]:
    """
    Return a line for each invalid combination.

    Settings in ``unusable`` are invalid by themselves; checks that involve them are skipped.
    """
    return [line for keys, check in _CHECKS if not set(keys) & set(unusable) for line in check(config, sources)]


def _client_certificate(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    certificate, key = config.client_certificate, config.client_key
    if certificate is None and key is not None:
        yield f"client_key ({sources['client_key']}): is of no use without client_certificate"
    elif certificate is not None and key is None:
        yield f"client_certificate ({sources['client_certificate']}): is of no use without client_key"
    elif certificate is not None and key is not None:
        shown = x509.load_pem_x509_certificates(certificate.read_bytes())[0].public_key()
        if load_pem_private_key(key.read_bytes(), None).public_key() != shown:
            yield f"client_key ({sources['client_key']}): is not the key of the first certificate in {certificate}"


def _bootstrap(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    listening = {(address.host, address.port) for address in config.listen}
    for server in config.bootstrap:
        if server.plain in listening or (server.plain and ("0.0.0.0", server.plain[1]) in listening):
            yield f"bootstrap ({sources['bootstrap']}): {server} is dotproxy itself"


def _names_of_upstreams(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    named = [upstream for upstream in config.upstream if upstream.host]
    if named and not config.bootstrap and len(named) == len(config.upstream):
        yield (
            f"upstream ({sources['upstream']}): {named[0].label} is a name, and no server is configured to resolve it:"
            " give an upstream by address as well, or a bootstrap server, such as"
            ' bootstrap = "tls://9.9.9.9#dns.quad9.net"'
        )


def _timeouts(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    if config.attempt_timeout > config.query_timeout:
        yield (
            f"attempt_timeout ({sources['attempt_timeout']}): {config.attempt_timeout:g} s is longer than"
            f" query_timeout, {config.query_timeout:g} s ({sources['query_timeout']})"
        )


def _cache_ttls(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    if config.cache_min_ttl > config.cache_max_ttl:
        yield (
            f"cache_min_ttl ({sources['cache_min_ttl']}): {show_seconds(config.cache_min_ttl)} is longer than"
            f" cache_max_ttl, {show_seconds(config.cache_max_ttl)} ({sources['cache_max_ttl']})"
        )


def _admin_port(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    admin = config.admin_listen
    for address in config.listen:
        if admin is not None and _overlap(admin, address):
            yield (
                f"admin_listen ({sources['admin_listen']}): {admin} is taken by listen, {address}"
                f" ({sources['listen']}), for DNS over TCP; give another port"
            )


def _tls_port(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    admin = config.admin_listen
    for served in config.listen_tls:
        for address in config.listen:
            if _overlap(served, address):
                yield (
                    f"listen_tls ({sources['listen_tls']}): {served} is taken by listen, {address}"
                    f" ({sources['listen']}), for DNS over TCP; give another port"
                )
        if admin is not None and _overlap(admin, served):
            yield (
                f"admin_listen ({sources['admin_listen']}): {admin} is taken by listen_tls, {served}"
                f" ({sources['listen_tls']}); give another port"
            )


def _overlap(admin: ListenAddress, dns: ListenAddress) -> bool:
    """
    Return whether the two addresses cannot both be bound over TCP.  A DNS listener on ``::`` accepts IPv6 only; the
    HTTP listener there accepts IPv4, too.
    """
    if admin.port != dns.port or not admin.port:
        return False
    if admin.host in {dns.host, "::"}:
        return True
    is_same_family = (":" in admin.host) == (":" in dns.host)
    return is_same_family and not {"0.0.0.0", "::"}.isdisjoint({admin.host, dns.host})


#: Each check with the settings that it depends on.
_CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = (
    (("client_certificate", "client_key"), _client_certificate),
    (("listen", "bootstrap"), _bootstrap),
    (("upstream", "bootstrap"), _names_of_upstreams),
    (("query_timeout", "attempt_timeout"), _timeouts),
    (("cache_min_ttl", "cache_max_ttl"), _cache_ttls),
    (("listen", "admin_listen"), _admin_port),
    (("listen_tls", "listen", "admin_listen"), _tls_port),
    (("listen_tls", "tls_certificate", "tls_key", "tls_client_ca"), disagreements_of_tls),
)
