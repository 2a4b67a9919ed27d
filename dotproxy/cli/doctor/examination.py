"""
``dotproxy doctor``: whether this machine's resolver is dotproxy, whether anything leaves on port 53, whether each
upstream verifies.

Decides what is examined, and in which order.  What a finding means is ``diagnosis``'s.  Nothing is sent in the clear
but queries for test names that do not exist, by the system's own resolver; names of upstreams are resolved by dotproxy.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.threads import deferToThread

from dotproxy.cli.admin_client import NotDotproxy, UnixConnection, fetch
from dotproxy.cli.control import query_udp, reachable
from dotproxy.cli.doctor.checks import Check, ok, problem, warning
from dotproxy.cli.doctor.diagnosis import (
    Evidence,
    Listening,
    check_arrival,
    check_configuration,
    check_nsswitch,
    check_plaintext,
    check_port_53,
    check_resolv_conf,
    check_resolved,
)
from dotproxy.cli.doctor.observation import Watch, judge, look_up, make_names
from dotproxy.cli.doctor.system import Server, read_system, run_command
from dotproxy.cli.session import build_verifier, connect
from dotproxy.config.model import Config
from dotproxy.config.values import ListenAddress
from dotproxy.errors import BadReply, Timeout, Untrusted, UpstreamError, WireError
from dotproxy.service.reactor import IServiceReactor
from dotproxy.upstream.spec import UpstreamAddress, endpoint_text
from dotproxy.wire.message import HEADER, RD, question_of
from dotproxy.wire.names import from_text
from dotproxy.wire.records import walk
from dotproxy.wire.rrtypes import AAAA, NS, A

#: Seconds for which the running proxy's number of responses is watched before the lookups, to know its other load.
_BACKGROUND = 1.0

#: Seconds that the running proxy may take to respond.
_ANSWER_TIMEOUT = 5.0

#: An address in the list of a proxy's listeners.
_ADDRESS = re.compile(r"\[?[0-9A-Fa-f.:]+(%[\w.-]+)?\]?[: ][0-9]{1,5}")


#: Looks names up as programs of this machine do.
LookUp = Callable[[Sequence[str]], object]


class Running:
    """
    The proxy that runs on this machine, reached at the addresses of its configuration.
    """

    def __init__(self, config: Config, admin_socket: str | None) -> None:
        self._config = config
        self._admin_socket = admin_socket or (str(config.admin_socket) if config.admin_socket else None)

    def listening(self) -> tuple[ListenAddress, ...]:
        """
        Return where it listens, from its own status: systemd may have passed other sockets than are configured.
        """
        status = self.status()
        told = tuple(map(_listen_address, status.get("listening", ()))) if status else ()
        return told or self._config.listen

    def check(self) -> Check:
        """
        Return whether it responds at each address, to a query that it answers itself.
        """
        failures: list[str] = []
        listening = self.listening()
        for address in listening:
            try:
                query_udp(address)
            except OSError as error:
                failures.append(f"{address}: {error.strerror or error}")
        where = ", ".join(map(str, listening))
        if failures:
            found = f"no response from {'; '.join(failures)}"
            return problem("dotproxy", found, "start it, or give its addresses: --config FILE, --listen ADDR:PORT")
        return ok("dotproxy", f"responds on {where}")

    def status(self) -> dict[str, Any] | None:
        """
        Return its status (a JSON object), None if it cannot be had.
        """
        if self._admin_socket:
            connection: http.client.HTTPConnection = UnixConnection(self._admin_socket)
        elif self._config.admin_listen:
            host = reachable(self._config.admin_listen.host)
            connection = http.client.HTTPConnection(host, self._config.admin_listen.port, timeout=_ANSWER_TIMEOUT)
        else:
            return None
        try:
            _, status = fetch(connection, "GET", "/status", timeout=_ANSWER_TIMEOUT)
        except (OSError, NotDotproxy):
            return None
        return status if _is_status(status) else None

    def addresses_of(self, name: str) -> list[str]:
        """
        Return the addresses of an upstream's name, resolved by the running proxy over TLS.

        Empty if the proxy is not on this machine: the query would leave in the clear.
        """
        found: list[str] = []
        address, *_ = self.listening()
        if not is_local(reachable(address.host)):
            return found
        for rtype, make in ((A, IPv4Address), (AAAA, IPv6Address)):
            with suppress(OSError, WireError, ValueError):  # the listener may be any program
                query = _query(from_text(f"{name}."), rtype)
                reply = query_udp(address, query, _ANSWER_TIMEOUT)
                if question_of(reply) != len(query) or reply[:2] != query[:2] or reply[12 : len(query)] != query[12:]:
                    continue
                count = HEADER.unpack_from(reply)[3]
                records = walk(reply, len(query), count)
                found += [str(make(reply[one.rdata_at : one.end])) for one in records if one.type == rtype]
        return found


def examine_system(config: Config, running: Running, root: Path, looking_up: LookUp = look_up) -> list[Check]:
    """
    Return the checks of this machine: its files, the running proxy, and what leaves while names are looked up.
    """
    listening = Listening(tuple(Server(one.host, one.port) for one in running.listening()), is_local)
    system = read_system(root, run_command)
    checks = [
        running.check(),
        *check_resolv_conf(system, listening),
        check_nsswitch(system),
        *check_resolved(system, listening),
        *check_configuration(config),
    ]
    evidence = gather(running, listening, looking_up)
    allowed = frozenset(Server(*server.plain) for server in config.bootstrap if server.plain)
    checks += [check_arrival(evidence), *check_port_53(evidence, allowed)]
    if status := running.status():
        checks.append(check_plaintext(status.get("plaintext_queries", {})))
    return checks


def gather(running: Running, listening: Listening, looking_up: LookUp) -> Evidence:
    """
    Look test names up; return where their queries went.
    """
    names = make_names()
    first = running.status()
    if first:
        time.sleep(_BACKGROUND)
    second = running.status()
    watch: Watch | None = None
    with suppress(OSError):
        watch = Watch(frozenset({53, *(server.port for server in listening.servers)}))
    try:
        looking_up(names)
    finally:
        queries = watch.stop() if watch else []
    evidence = judge(names, queries, listening) if watch else Evidence(len(names))
    third = running.status()
    if not (first and second and third):
        return evidence
    return replace(
        evidence, answered=third["answers"] - second["answers"], background=second["answers"] - first["answers"]
    )


async def examine_upstreams(config: Config, running: Running, reactor: IServiceReactor) -> list[Check]:
    """
    Return a check of each upstream: whether it verifies and responds.
    """
    return [await _examine(config, running, upstream, reactor) for upstream in config.upstream]


async def _examine(config: Config, running: Running, upstream: UpstreamAddress, reactor: IServiceReactor) -> Check:
    """
    Return a check of one upstream, with each of its addresses.
    """
    name = f"upstream {upstream.label}"
    addresses = list(upstream.addresses)
    if upstream.host:
        host, port = upstream.host
        addresses = [(address, port) for address in await deferToThread(running.addresses_of, host)]
        if not addresses:
            return problem(name, f"dotproxy cannot resolve {host}", "give it by address: tls://ADDRESS#NAME")
    verified: list[str] = []
    failures: list[str] = []
    is_wrong = False
    for host, port in addresses:
        try:
            verified.append(await _verify(config, upstream, host, port, reactor))
        except UpstreamError as error:
            is_wrong = is_wrong or isinstance(error, Untrusted)
            failures.append(f"{endpoint_text(host, port)}: {error}")
    if is_wrong or not verified:
        return problem(name, "; ".join(failures), "dotproxy probe shows its certificate")
    found = f"verified as {', '.join(verified)}"
    return warning(name, f"{found}; {'; '.join(failures)}") if failures else ok(name, found)


async def _verify(config: Config, upstream: UpstreamAddress, host: str, port: int, reactor: IServiceReactor) -> str:
    """
    Connect to one address and query the root's NS records; return the verified name and the connection as text.

    :raises UpstreamError: if the address does not verify, or does not respond with NOERROR.
    """
    session, took = await connect(reactor, host, port, build_verifier(config, upstream, host), config.connect_timeout)
    try:
        (reply_later,) = session.ask([_query(b"\0", NS)], reactor)
        reply = await reply_later
    except TookTooLong:
        raise Timeout("read", "no response in time") from None
    finally:
        session.close()
    if rcode := reply[3] & 15:
        raise BadReply("read", f"it responds with rcode {rcode}")
    identity = session.identity
    return f"{identity.verified} at {endpoint_text(host, port)} ({identity.tls_version}, {took * 1000:.0f} ms)"


def _is_status(status: dict[str, Any]) -> bool:
    """
    Return whether a JSON object has the form of a dotproxy's status, as far as it is used here.
    """
    listening, plaintext = status.get("listening", []), status.get("plaintext_queries", {})
    return (
        isinstance(status.get("answers"), int)
        and isinstance(listening, list)
        and all(isinstance(text, str) and _ADDRESS.fullmatch(text) for text in listening)
        and isinstance(plaintext, dict)
        and all(isinstance(count, int) for count in plaintext.values())
    )


def _listen_address(text: str) -> ListenAddress:
    """
    Parse an address of a running proxy's status: ``ADDRESS:PORT`` or ``ADDRESS PORT``.
    """
    host, _, port = text.rpartition(" " if " " in text else ":")
    return ListenAddress(host.strip("[]"), int(port))


def is_local(host: str) -> bool:
    """
    Return whether an address is one of this machine's: whether a socket can be bound to it.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _query(name: bytes, rtype: int) -> bytes:
    header = HEADER.pack(int.from_bytes(os.urandom(2), "big"), RD, 1, 0, 0, 0)
    return header + name + rtype.to_bytes(2, "big") + b"\0\1"
