"""
``dotproxy query``: one question, asked as the proxy would ask it, and its answer as dig would print it.

Decides how the command line is read.  dnspython renders.
"""

from __future__ import annotations

import os
import time
from typing import Any

from dotproxy.config.model import Config
from dotproxy.doctor.session import connect, trust_in
from dotproxy.errors import DotproxyError, UpstreamError
from dotproxy.upstream.address import UpstreamAddress
from dotproxy.wire.hop import Rebuilt, Subnet
from dotproxy.wire.message import peek


class CannotAsk(DotproxyError):
    """
    The question makes no sense, or what it takes to ask it is not there.
    """


async def query(reactor: Any, config: Config, upstream: UpstreamAddress, name: str, rtype: str, *, dnssec: bool) -> str:
    """
    Return the answer, with what is known of who gave it.

    :raises CannotAsk: saying why.
    :raises UpstreamError: if nobody answers.
    """
    try:
        import dns.exception
        import dns.message
    except ImportError:
        raise CannotAsk("this takes dnspython: pip install 'dotproxy[query]'") from None
    try:
        message = dns.message.make_query(name, rtype, want_dnssec=dnssec, use_edns=0)
    except (dns.exception.DNSException, ValueError) as error:
        raise CannotAsk(f"{name} {rtype}: {error}") from None
    message.id = int.from_bytes(os.urandom(2), "big")
    wire = message.to_wire()
    sent = Rebuilt(config.padding, Subnet(config.client_subnet)).outgoing(wire, peek(wire))
    failures: list[str] = []
    for host, port in upstream.addresses:
        trust = trust_in(config, upstream, host)
        try:
            session, connected = await connect(reactor, host, port, trust, config.connect_timeout)
            began = time.perf_counter()
            reply = await session.ask([sent], reactor)[0]
        except UpstreamError as error:
            failures.append(f"{host}: {error}")
            continue
        took = time.perf_counter() - began
        session.close()
        identity = session.identity
        rendered = dns.message.from_wire(reply)
        rendered.id = message.id
        return (
            f"{rendered.to_text()}\n\n;; Query time: {took * 1000:.1f} msec, after {connected * 1000:.1f} msec for the"
            f" connection\n;; SERVER: {host}#{port} ({identity.tls_version}, {identity.cipher},"
            f" verified as {identity.verified})\n;; MSG SIZE  sent: {len(sent)}, rcvd: {len(reply)}"
        )
    raise CannotAsk("; ".join(failures) or "give the upstream's address: @ADDRESS#NAME")
