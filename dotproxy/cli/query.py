"""
``dotproxy query``: one question, asked as the proxy would ask it, and its answer as dig would print it.

Decides what is sent, to which of an upstream's addresses, and what is told of the connection.  The answer is written
out by ``answer``.
"""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.internet.defer import TimeoutError as TookTooLong

from dotproxy.cli.message_text import message_text
from dotproxy.cli.session import PROBE_REPLY_TIMEOUT, connect, trust_in
from dotproxy.config.model import Config
from dotproxy.errors import DotproxyError, UpstreamError, WireError
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.wire.edns import DO, opt_record
from dotproxy.wire.message import HEADER, RD, parse_query
from dotproxy.wire.names import from_text
from dotproxy.wire.responses import OUR_UDP_SIZE
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.rrtypes import NAMES


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
    wire = _question(name, rtype, dnssec=dnssec)
    sent = EdnsRewriter(config.padding, config.client_subnet).rewrite_query(wire, parse_query(wire))
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
        except TookTooLong:
            session.close()
            failures.append(f"{host}: read: no answer in {PROBE_REPLY_TIMEOUT:g} s")
            continue
        took = time.perf_counter() - began
        session.close()
        identity = session.identity
        try:
            text = message_text(reply)
        except (WireError, IndexError, ValueError) as error:
            raise CannotAsk(f"{host}: an answer that cannot be read: {error}") from None
        return (
            f"{text}\n\n;; Query time: {took * 1000:.1f} msec, after {connected * 1000:.1f} msec for the"
            f" connection\n;; SERVER: {host}#{port} ({identity.tls_version}, {identity.cipher},"
            f" verified as {identity.verified})\n;; MSG SIZE  sent: {len(sent)}, rcvd: {len(reply)}"
        )
    raise CannotAsk("; ".join(failures) or "give the upstream's address: @ADDRESS#NAME")


def _question(name: str, rtype: str, *, dnssec: bool) -> bytes:
    """
    Return a query with EDNS and a random ID.

    :raises CannotAsk: if there is no such name or type.
    """
    try:
        question = from_text(name if name.endswith(".") else name + ".") + _type_number(rtype).to_bytes(2, "big")
    except WireError as error:
        raise CannotAsk(f"{name} {rtype}: {error.reason}") from None
    ident = int.from_bytes(os.urandom(2), "big")
    return HEADER.pack(ident, RD, 1, 0, 0, 1) + question + b"\0\1" + opt_record(OUR_UDP_SIZE, 0, DO if dnssec else 0)


def _type_number(name: str) -> int:
    """
    Return the type with this name, in any case, or with this number, as TYPE65280 (RFC 3597 §5).

    :raises WireError: if there is none.
    """
    upper = name.upper()
    digits = upper.removeprefix("TYPE")
    if digits != upper and digits.isascii() and digits.isdigit() and int(digits[:6]) < 65536:
        return int(digits[:6])
    for number, known in NAMES.items():
        if known == upper:
            return number
    raise WireError(f"{name!r} is not a type; write its name, as AAAA, or its number, as TYPE65280")
