"""
``dotproxy demo``: a demonstration on one machine, without a network.

Starts a DNS-over-TLS server with a certificate of a temporary CA, puts dotproxy in front of it, sends queries over UDP
and TCP, and prints which connection they used; then shows that a wrong certificate is refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from dotproxy.config.load import load
from dotproxy.downstream.sockets import CannotBind, bind_both
from dotproxy.errors import UpstreamError
from dotproxy.service.assembly import build
from dotproxy.service.proxy import Proxy
from dotproxy.service.reactor import IServiceReactor
from dotproxy.telemetry.events import Events
from dotproxy.testing.certificates import Authority
from dotproxy.testing.client import ask_tcp, ask_udp, make_query
from dotproxy.testing.server import DotServer
from dotproxy.testing.zone import Zone, address_rdata, txt_rdata
from dotproxy.wire.edns import EDE_OPTION
from dotproxy.wire.message import HEADER, SERVFAIL, TC, question_of, records_of
from dotproxy.wire.records import walk
from dotproxy.wire.rrtypes import TXT, A

_NAME = "dot.demo.test"
_WRONG_NAME = "dns.elsewhere.test"
_GREETING = "hello over TLS"
_LONG = "The whole of a long answer arrives over TCP. " * 90

_ZONE = Zone(
    {
        ("www.demo.test.", A): [address_rdata("192.0.2.80")],
        ("hello.demo.test.", TXT): [txt_rdata(_GREETING)],
        ("long.demo.test.", TXT): [txt_rdata(_LONG)],
    }
)


class DemoFailed(Exception):
    """
    A step had another result than expected; the text says which.
    """


class _Recorder(Events):
    """
    Records the connection that was used, and why one was refused.
    """

    def __init__(self) -> None:
        self.connection = ""
        self.verified = ""
        self.error: UpstreamError | None = None

    def upstream_connected(
        self, upstream: str, peer: str, tls: str, verified: str, *, resumed: bool, seconds: float
    ) -> None:
        self.connection = f"{tls} to {peer}, verified as {verified}, in {seconds * 1000:.0f} ms"
        self.verified = verified

    def upstream_went_down(self, upstream: str, error: UpstreamError) -> None:
        self.error = error


async def demonstrate(
    reactor: IServiceReactor, say: Callable[[str], None], *, once: bool, port: int | None = None
) -> None:
    """
    Run the demonstration; unless ``once``, stay up after it.

    ``port`` is dotproxy's on 127.0.0.1; None: 5300, or a free one.

    :raises DemoFailed: at the first step with another result than expected.
    """
    with tempfile.TemporaryDirectory(prefix="dotproxy-demo-") as folder:
        authority = Authority()
        ca_file = Path(folder) / "ca.pem"
        ca_file.write_bytes(authority.pem)
        server = DotServer(_ZONE, authority.issue([_NAME]))
        listening: Any = await server.listen(reactor)
        where = f"127.0.0.1:{listening.getHost().port}"
        upstream = f"tls://{where}"
        say(f"upstream   a DNS-over-TLS server for demo.test on {where}, with a certificate for {_NAME}")
        good, recorder = _start(reactor, f"{upstream}#{_NAME}", ca_file, port if port is not None else _free_port())
        bad, bad_recorder = _start(reactor, f"{upstream}#{_WRONG_NAME}", ca_file, 0)
        try:
            (endpoint,), (bad_endpoint,) = good.addresses, bad.addresses
            host, port = endpoint
            say(f"dotproxy   listens on {host}:{port} (UDP, TCP), forwards to {upstream}#{_NAME}\n")
            await _show_answers(reactor, say, host, port, recorder)
            await _show_refusal(reactor, say, *bad_endpoint, server, bad_recorder)
            await bad.stopService()
            if not once:
                say(f"\ndotproxy stays up; try   dig @{host} -p {port} hello.demo.test TXT\nCtrl-C ends it.")
                await _until_stopped(reactor)
        finally:
            for proxy in (good, bad):
                if proxy.running:
                    await proxy.stopService()
            await listening.stopListening()


def _free_port() -> int:
    try:
        for bound in bind_both("127.0.0.1", 5300):
            bound.close()
    except CannotBind:
        return 0
    return 5300


def _start(reactor: IServiceReactor, upstream: str, ca_file: Path, port: int) -> tuple[Proxy, _Recorder]:
    options = {
        "listen": [f"127.0.0.1:{port}"],
        "upstream": [upstream],
        "forward_special": ["test"],  # its zone is demo.test
        "ca_file": [str(ca_file)],
    }
    recorder = _Recorder()
    proxy = build(load(options, {}).config, reactor, recorder)
    proxy.startService()
    return proxy, recorder


async def _show_answers(
    reactor: IServiceReactor, say: Callable[[str], None], host: str, port: int, recorder: _Recorder
) -> None:
    reply = await ask_udp(reactor, host, port, make_query("www.demo.test.", A))
    address = ".".join(str(octet) for octet in _rdatas(reply)[0])
    say(f"UDP  www.demo.test. A      → {address}")
    _expect(address == "192.0.2.80", "the answer over UDP is wrong")
    reply = await ask_tcp(reactor, host, port, make_query("hello.demo.test.", TXT))
    text = _text(_rdatas(reply)[0])
    say(f"TCP  hello.demo.test. TXT  → {text!r}")
    _expect(text == _GREETING, "the answer over TCP is wrong")
    query = make_query("long.demo.test.", TXT)
    reply = await ask_udp(reactor, host, port, query)
    _expect(HEADER.unpack_from(reply)[1] & TC, "the long answer was not truncated over UDP")
    whole = await ask_tcp(reactor, host, port, query)
    say(f"UDP  long.demo.test. TXT   → truncated to {len(reply)} octets; over TCP {len(whole)} octets")
    _expect(_text(_rdatas(whole)[0]) == _LONG, "the long answer over TCP is wrong")
    say(f"\nall over   {recorder.connection}")
    _expect(recorder.verified == _NAME and "TLSv1." in recorder.connection, "the connection was not verified")


async def _show_refusal(
    reactor: IServiceReactor, say: Callable[[str], None], host: str, port: int, server: DotServer, recorder: _Recorder
) -> None:
    say(f"\nthe same server, but with the name {_WRONG_NAME} configured:")
    before = len(server.queries)
    reply = await ask_udp(reactor, host, port, make_query("www.demo.test.", A))
    rcode = HEADER.unpack_from(reply)[1] & 15
    say(f"UDP  www.demo.test. A      → {'SERVFAIL' if rcode == SERVFAIL else rcode}: {_extended_error(reply)}")
    _expect(rcode == SERVFAIL, "a wrong certificate did not lead to SERVFAIL")
    _expect(
        recorder.error is not None and recorder.error.phase == "verify", "another reason than the certificate was given"
    )
    _expect(not recorder.connection and len(server.queries) == before, "a query reached a server that was not verified")
    say("and the server received no octet of a query")


async def _until_stopped(reactor: IServiceReactor) -> None:
    stopped: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", stopped.callback, None)
    await stopped


def _expect(condition: object, failure: str) -> None:
    if not condition:
        raise DemoFailed(failure)


def _rdatas(reply: bytes) -> list[bytes]:
    answers = HEADER.unpack_from(reply)[3]
    _expect(answers > 0, f"no answer came, but rcode {reply[3] & 15}: {_extended_error(reply)}")
    return [reply[record.rdata_at : record.end] for record in walk(reply, question_of(reply), answers)]


def _text(rdata: bytes) -> str:
    pieces: list[bytes] = []
    offset = 0
    while offset < len(rdata):
        pieces.append(rdata[offset + 1 : offset + 1 + rdata[offset]])
        offset += 1 + rdata[offset]
    return b"".join(pieces).decode()


def _extended_error(reply: bytes) -> str:
    opt_at = records_of(reply, question_of(reply)).opt_at
    option, info = reply[opt_at + 11 : opt_at + 13], reply[opt_at + 17 :]
    if not opt_at or int.from_bytes(option, "big") != EDE_OPTION:
        return "no reason given"
    return f"EDE {int.from_bytes(reply[opt_at + 15 : opt_at + 17], 'big')}, {info.decode()}"
