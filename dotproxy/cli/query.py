"""
``dotproxy query``: one query, sent as the proxy sends it; the response is printed as dig prints it.

Decides what is sent, to which of an upstream's addresses, and what is printed about the connection.  The response is
formatted by ``message_text``.
"""

from __future__ import annotations

import os
import time

from twisted.internet.defer import TimeoutError as TookTooLong

from dotproxy.cli.message_text import message_text
from dotproxy.cli.session import PROBE_REPLY_TIMEOUT, build_verifier, connect
from dotproxy.config.model import Config
from dotproxy.errors import DotproxyError, UpstreamError, WireError
from dotproxy.service.reactor import IServiceReactor
from dotproxy.upstream.spec import UpstreamAddress
from dotproxy.wire.edns import DO, opt_record
from dotproxy.wire.message import HEADER, RD, parse_query
from dotproxy.wire.names import from_text
from dotproxy.wire.responses import OUR_UDP_SIZE
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.rrtypes import NAMES


class CannotAsk(DotproxyError):
    """
    The query is not valid, or no upstream responded; the text says why.
    """


async def query(
    reactor: IServiceReactor, config: Config, upstream: UpstreamAddress, name: str, rtype: str, *, dnssec: bool
) -> str:
    """
    Return the response as text, followed by times, server and connection.

    :raises CannotAsk: if the query is not valid, or no address of the upstream responds.
    """
    wire = _question(name, rtype, dnssec=dnssec)
    sent = EdnsRewriter(config.padding, config.client_subnet).rewrite_query(wire, parse_query(wire))
    failures: list[str] = []
    for host, port in upstream.addresses:
        verifier = build_verifier(config, upstream, host)
        try:
            session, connected = await connect(reactor, host, port, verifier, config.connect_timeout)
            began = time.perf_counter()
            (reply_later,) = session.ask([sent], reactor)
            reply = await reply_later
        except UpstreamError as error:
            failures.append(f"{host}: {error}")
            continue
        except TookTooLong:
            session.close()
            failures.append(f"{host}: read: no response within {PROBE_REPLY_TIMEOUT:g} s")
            continue
        took = time.perf_counter() - began
        session.close()
        identity = session.identity
        try:
            text = message_text(reply)
        except (WireError, IndexError, ValueError) as error:
            raise CannotAsk(f"{host}: a malformed response: {error}") from None
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
    Return a type's number from its name, in any case, or from its number, as TYPE65280 (RFC 3597 §5).

    :raises WireError: if it is neither.
    """
    upper = name.upper()
    digits = upper.removeprefix("TYPE")
    if digits != upper and digits.isascii() and digits.isdigit() and int(digits[:6]) < 65536:
        return int(digits[:6])
    for number, known in NAMES.items():
        if known == upper:
            return number
    raise WireError(f"{name!r} is not a type; write its name, as AAAA, or its number, as TYPE65280")
