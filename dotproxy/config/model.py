"""
A complete configuration, as the rest of dotproxy uses it.

Decides the types of the values only; ``schema`` defines their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dotproxy.config.choices import LogFormat, LogLevel, QueryLogMode, TlsVersion, UdpTruncation
from dotproxy.config.system_users import Account
from dotproxy.config.values import BootstrapServer, ListenAddress
from dotproxy.policy.access import LimitAction, Network
from dotproxy.policy.selection import Policy
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.wire.rewrite import ClientSubnet


@dataclass(frozen=True, slots=True)
class Config:
    """
    A complete, validated configuration.  Times are in seconds, sizes in octets.
    """

    listen: tuple[ListenAddress, ...]
    listen_tls: tuple[ListenAddress, ...]
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    proxy_protocol_from: tuple[Network, ...]
    upstream: tuple[UpstreamAddress, ...]
    bootstrap: tuple[BootstrapServer, ...]
    ca_file: Path | None
    client_certificate: Path | None
    client_key: Path | None
    tls_minimum: TlsVersion
    tls_ciphers: str | None
    policy: Policy
    allow_from: tuple[Network, ...]
    not_allowed: LimitAction
    client_rate: float
    client_prefix_v4: int
    client_prefix_v6: int
    client_exempt: tuple[Network, ...]
    over_limit: LimitAction
    response_rate_limit: int
    response_rate_slip: int
    query_timeout: float
    attempt_timeout: float
    hedge_percent: float
    connect_timeout: float
    upstream_idle_timeout: float
    tcp_idle_timeout: float
    tcp_max_connections: int
    tcp_max_outstanding: int
    udp_max_size: int
    udp_truncation: UdpTruncation
    workers: int | Literal["auto"]
    udp_batched: bool
    forward_special: tuple[str, ...]
    transparent: bool
    udp_cookies: bool
    minimal_any: bool
    max_transfers: int
    padding: int
    client_subnet: ClientSubnet
    max_outstanding: int
    cache_size: int
    cache_memory: int
    cache_min_ttl: int
    cache_max_ttl: int
    cache_max_negative_ttl: int
    serve_stale: float
    prefetch: bool
    cache_file: Path | None
    admin_listen: ListenAddress | None
    admin_hosts: tuple[str, ...]
    admin_socket: Path | None
    user: Account | None
    query_log: QueryLogMode
    query_log_sample: float
    log_format: LogFormat
    log_level: LogLevel

    @property
    def is_debug(self) -> bool:
        """
        Whether debug lines are logged.
        """
        return self.log_level is LogLevel.DEBUG
