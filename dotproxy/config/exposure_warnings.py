"""
Warnings about valid settings that expose the service, its files or its queries.

Decides which settings do, and the text of each warning: the key and its source, what is exposed to whom, and how to fix
it.  They are warnings and not errors, because each setting is right in some networks.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, ip_address
from pathlib import Path

from dotproxy.config.model import Config
from dotproxy.config.schema import PRIVATE_NETWORKS
from dotproxy.config.values import ListenAddress
from dotproxy.policy.access import Network
from dotproxy.policy.special_names import PRIVATE_TLDS

#: From a configuration and the source of each value, by key, to a line for each warning.
Check = Callable[[Config, Mapping[str, str]], Iterator[str]]

#: A network with a shorter prefix is too large to be one operator's clients, except private ones: fc00::/7, fe80::/10.
_LARGEST_IPV4, _LARGEST_IPV6 = 8, 16

#: Special names with a different meaning in each network; other special names may be forwarded without a warning.
_OF_THIS_NETWORK = {"local", "home.arpa", "private_reverse", "private_tlds", *PRIVATE_TLDS}


def exposures(config: Config, sources: Mapping[str, str], file: Path | None = None) -> list[str]:
    """
    Return a warning for each exposure of ``config``; ``file`` is the configuration file, None without one.

    ``sources`` has the source of each value by key, and that of the file as ``config``.
    """
    lines = [line for check in _CHECKS for line in check(config, sources)]
    lines += _writable("config", file, sources)
    return lines


def _open_resolver(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    wide = [str(network) for network in config.allow_from if _is_wide(network)]
    reached = [str(one) for one in config.listen if not _is_loopback(one)]
    if wide and reached:
        yield (
            f"allow_from ({sources['allow_from']}): {' '.join(wide)} with a listener on {' '.join(reached)} is an open"
            " resolver, which can be abused for attacks on others; restrict it to the networks of the clients"
        )


def _is_wide(network: Network) -> bool:
    largest = _LARGEST_IPV4 if isinstance(network, IPv4Network) else _LARGEST_IPV6
    return network.prefixlen < largest and str(network) not in PRIVATE_NETWORKS


def _is_loopback(address: ListenAddress) -> bool:
    return ip_address(address.host).is_loopback


def _public_admin(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    admin = config.admin_listen
    if admin is not None and ip_address(admin.host).is_global:
        yield (
            f"admin_listen ({sources['admin_listen']}): {admin} is a public address: /metrics and /status can be"
            " read by everyone who reaches it; listen on a private or loopback address"
        )


def _private_names(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    """
    Warn of local names sent to a public service: it cannot resolve them, and learns the names of this network.
    """
    names = [name for name in config.forward_special if name in _OF_THIS_NETWORK]
    public = [upstream.preset for upstream in config.upstream if upstream.preset]
    if names and public:
        yield (
            f"forward_special ({sources['forward_special']}): names of this network ({' '.join(names)}) are sent to"
            f" {' '.join(public)}, a public service; forward them to an upstream of the network alone"
        )


def _weak_tls(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    if config.tls_ciphers is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers(config.tls_ciphers)
    if context.security_level == 0:
        yield (
            f"tls_ciphers ({sources['tls_ciphers']}): @SECLEVEL=0 accepts certificates with keys of any length and"
            " signatures of any kind; leave it out"
        )


def _files(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    key = config.client_key
    if key is not None and _mode(key) & stat.S_IROTH:
        yield f"client_key ({sources['client_key']}): {key} can be read by every user; chmod 600 {key}"
    yield from _writable("ca_file", config.ca_file, sources)
    for name, path in (("cache_file", config.cache_file), ("admin_socket", config.admin_socket)):
        if path is not None and (mode := _mode(path.parent)) & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield (
                f"{name} ({sources[name]}): every user may replace files in {path.parent}; use a directory of"
                " dotproxy's own"
            )


def _writable(key: str, path: Path | None, sources: Mapping[str, str]) -> Iterator[str]:
    if path is not None and stat.S_ISREG(mode := _mode(path)) and mode & stat.S_IWOTH:
        yield f"{key} ({sources[key]}): {path} can be written by every user; chmod o-w {path}"


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:  # a file that cannot be examined is reported where it is used
        return 0


_CHECKS: tuple[Check, ...] = (_open_resolver, _public_admin, _private_names, _weak_tls, _files)
