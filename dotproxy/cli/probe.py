"""
``dotproxy probe``: what an upstream is like.

Decides what is tried, in which order, and what is said of it.  Nothing is asked of a server that is not who it should
be; of such a one there is only what it shows by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.threads import deferToThread

from dotproxy.cli.message_text import extended_error_text, rcode_name
from dotproxy.cli.session import Session, connect, trust_in
from dotproxy.cli.tls_inspect import Seen, look
from dotproxy.config.model import Config
from dotproxy.errors import ConnectionGone, DotproxyError
from dotproxy.telemetry.words import pluralized
from dotproxy.upstream.spec import UpstreamAddress, endpoint_text
from dotproxy.wire.edns import DO, ECS, EDE_OPTION, KEEPALIVE, PADDING, opt_record, option, options_of
from dotproxy.wire.message import AD, HEADER, RD, TC, question_of, records_of
from dotproxy.wire.names import from_text, to_text
from dotproxy.wire.printable import printable, short_printable
from dotproxy.wire.rrtypes import DNSKEY, RRSIG, SOA, TXT

#: Client subnet 198.51.100.0/24: somebody else's, to see whether it is told back.
_SUBNET = option(ECS, b"\0\1\x18\0\xc6\x33\x64")


@dataclass
class Report:
    """
    What was found out about one address of one upstream.  Times are in milliseconds.
    """

    upstream: str
    address: str
    shows: Seen
    verified: str = ""
    problem: str = ""
    cold_ms: float | None = None
    resumed_ms: float | None = None
    is_resumed: bool | None = None
    first_query_ms: float | None = None
    warm_query_ms: float | None = None
    rcode: str = ""
    idle_timeout_s: float | None = None
    pads: bool | None = None
    echoes_subnet: bool | None = None
    dnssec: str = ""
    largest_answer: int | None = None
    out_of_order: bool | None = None
    closed_after_s: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """
        Whether it can be used: it is verified, and its answers say what there is.
        """
        return not self.problem and self.rcode in _GOOD


class Prober:
    """
    Probes upstreams, one address after the other.
    """

    def __init__(self, config: Config, reactor: Any, name: str = ".", idle: float = 0.0) -> None:
        self._config = config
        self._reactor = reactor
        self._name = from_text(name if name.endswith(".") else name + ".")
        self._idle = idle
        self._ident = 0

    async def probe(self, upstream: UpstreamAddress, host: str, port: int) -> Report:
        """
        Return what is found out about one address.
        """
        config = self._config
        shows = await deferToThread(look, host, port, upstream.name, config.connect_timeout)
        report = Report(upstream.label, endpoint_text(host, port), shows)
        trust = trust_in(config, upstream, host)
        try:
            session, took = await connect(self._reactor, host, port, trust, config.connect_timeout)
            report.cold_ms, report.verified = _milliseconds(took), session.identity.verified
            if not session.identity.chain.is_root:
                anchor = session.identity.chain.anchor
                report.notes.append(
                    f"trusted because ca_file names {anchor}, which is no root: nothing above it counts"
                )
            try:
                await self._ask_about(session, report)
            except ConnectionGone as error:
                if not report.rcode:
                    raise
                report.notes.append(f"the connection ended while it was asked this and that: {error.reason}")
            finally:
                session.close()
            again, took = await connect(self._reactor, host, port, trust, config.connect_timeout)
            report.resumed_ms, report.is_resumed = _milliseconds(took), again.identity.resumed
            if self._idle:
                await self._wait_for_the_end(again, report)
            again.close()
        except DotproxyError as error:
            report.problem = str(error)
        except Exception as error:
            is_late = isinstance(error, TookTooLong)
            report.problem = (
                "read: no answer in time" if is_late else short_printable(f"{type(error).__name__}: {error}")
            )
        return report

    async def _ask_about(self, session: Session, report: Report) -> None:
        """
        Ask this and that.
        """
        began = time.perf_counter()
        reply = await self._ask(session, self._name, SOA, option(KEEPALIVE, b"") + option(PADDING, bytes(40)))
        report.first_query_ms = _milliseconds(time.perf_counter() - began)
        self._judge(reply, report)
        options = _options(reply)
        granted = options.get(KEEPALIVE)
        report.idle_timeout_s = int.from_bytes(granted, "big") / 10 if granted and len(granted) == 2 else None
        report.pads = PADDING in options
        began = time.perf_counter()
        reply = await self._ask(session, self._name, SOA)
        report.warm_query_ms = _milliseconds(time.perf_counter() - began)
        if rcode_name(reply[3] & 15) != report.rcode:
            report.notes.append(f"answered {report.rcode} when it was asked first")
        self._judge(reply, report)  # what holds is the later answer: a resolver with nothing cached may fail once
        reply = await self._answer_to(session, report, "client subnet", self._name, SOA, _SUBNET)
        report.echoes_subnet = ECS in _options(reply) if reply else None
        reply = await self._answer_to(session, report, "the root's DNSKEY", b"\0", DNSKEY, flags=DO)
        if reply:
            has_signatures = RRSIG in _types(reply)
            report.dnssec = "validates" if reply[3] & AD else "signatures" if has_signatures else "none"
            report.largest_answer = len(reply)
            if reply[2] & TC >> 8:
                report.notes.append("truncates over TLS")
        await self._ask_many(session, report)

    def _judge(self, reply: bytes, report: Report) -> None:
        """
        Take down the rcode; one by which nothing is learned of the name is a problem.
        """
        report.rcode = rcode_name(reply[3] & 15)
        report.problem = ""
        if report.rcode not in _GOOD:
            error = _options(reply).get(EDE_OPTION, b"")
            why = f"; EDE: {extended_error_text(error)}" if len(error) >= 2 else ""
            report.problem = f"answers {report.rcode} to {to_text(self._name)} SOA{why}"

    async def _answer_to(
        self, session: Session, report: Report, what: str, name: bytes, rtype: int, options: bytes = b"", flags: int = 0
    ) -> bytes:
        """
        Return the answer to something that need not be answered, b"" without one.
        """
        try:
            reply: bytes = await self._ask(session, name, rtype, options, flags)
        except TookTooLong:
            report.notes.append(f"no answer to a question with {what}" if options else f"no answer to {what}")
            return b""
        return reply

    async def _ask_many(self, session: Session, report: Report) -> None:
        """
        Ask much at once, what takes time before what takes none, and see in which order it is answered.
        """
        session.answered.clear()
        stamp = f"{time.time_ns():x}".encode()
        names = [bytes((len(label),)) + label + self._name for label in (b"p%d-" % n + stamp for n in range(4))]
        queries = [self._query(name, TXT) for name in names] + [self._query(self._name, SOA) for _ in range(4)]
        results = await DeferredList(session.ask(queries, self._reactor), consumeErrors=True)
        if not all(good for good, _ in results):
            report.notes.append("does not answer eight questions at once")
        report.out_of_order = session.answered != sorted(session.answered)

    async def _wait_for_the_end(self, session: Session, report: Report) -> None:
        await self._ask(session, self._name, SOA)
        began = time.monotonic()
        try:
            await session.closed.addTimeout(self._idle, self._reactor)
            report.closed_after_s = round(time.monotonic() - began, 1)
        except Exception:
            report.notes.append(f"does not close when idle for {self._idle:g} s")

    def _ask(self, session: Session, name: bytes, rtype: int, options: bytes = b"", flags: int = 0) -> Any:
        return session.ask([self._query(name, rtype, options, flags)], self._reactor)[0]

    def _query(self, name: bytes, rtype: int, options: bytes = b"", flags: int = 0) -> bytes:
        self._ident += 1
        question = name + rtype.to_bytes(2, "big") + b"\0\1"
        return HEADER.pack(self._ident, RD, 1, 0, 0, 1) + question + opt_record(1232, 0, flags, options)


async def probe_all(
    prober: Prober, upstreams: Sequence[UpstreamAddress], say: Callable[[str], None], *, as_json: bool
) -> bool:
    """
    Probe all of them, and say what was found; return whether each can be used, by one of its addresses at least.
    """
    everything: list[dict[str, Any]] = []
    are_good: list[bool] = []
    for upstream in upstreams:
        reports: list[Report] = []
        for host, port in upstream.addresses:
            report = await prober.probe(upstream, host, port)
            reports.append(report)
            if not as_json:
                say(shown(report))
        if upstream.host:
            reports.append(Report(upstream.label, upstream.host[0], Seen(), problem="give its address: ADDRESS#NAME"))
            if not as_json:
                say(shown(reports[-1]))
        are_good.append(any(report.is_good for report in reports))
        everything += [{**asdict(report), "is_good": report.is_good} for report in reports]
    if as_json:
        say(json.dumps(everything, indent=2, default=str))
    return all(are_good)


def shown(report: Report) -> str:
    """
    Return a report for a person.
    """
    seen = report.shows
    lines = [f"{report.upstream} at {report.address}"]

    def line(label: str, text: str) -> None:
        if text:
            lines.append(f"  {label:<13} {printable(text)}")

    verdict = f"verified as {report.verified}" if report.verified else ""
    line("verdict", f"{verdict}, but it cannot be used" if verdict and report.problem else verdict)
    line("problem", report.problem)
    line("what it shows", seen.error)
    line("times", ", ".join(_times(report)))
    line("TLS", " ".join(filter(None, (seen.tls_version, seen.cipher, f"ALPN {seen.alpn}" if seen.alpn else ""))))
    if seen.names or seen.expires:
        line("certificate", f"for {', '.join(seen.names) or 'no name'}; by {seen.issuer}")
    if seen.expires:
        days = (seen.expires - datetime.now(UTC)).days
        left = f"{pluralized(days, 'day')} left" if days >= 0 else f"{pluralized(-days, 'day')} ago"
        line("expires", f"{seen.expires:%Y-%m-%d} ({left})")
    line("pin", f"?pin-sha256={seen.pin}" if seen.pin else "")
    line("answers", ", ".join(_answers(report)))
    for note in report.notes:
        line("note", note)
    return "\n".join(lines) + "\n"


def _times(report: Report) -> list[str]:
    times = [
        ("TCP", report.shows.tcp_ms),
        ("TCP and TLS", report.cold_ms),
        ("resumed" if report.is_resumed else "again, not resumed", report.resumed_ms),
        ("first query", report.first_query_ms),
        ("warm query", report.warm_query_ms),
    ]
    return [f"{label} {value:g} ms" for label, value in times if value is not None]


def _answers(report: Report) -> list[str]:
    if not report.rcode:
        return []
    found = [report.rcode]
    if report.dnssec:
        found += [f"DNSSEC: {report.dnssec}", f"largest {report.largest_answer} octets"]
    found.append("padded" if report.pads else "not padded")
    found.append("in any order" if report.out_of_order else "in order")
    if report.echoes_subnet is not None:
        found.append("client subnet told back" if report.echoes_subnet else "client subnet not told back")
    if report.idle_timeout_s is not None:
        found.append(f"keeps idle connections for {report.idle_timeout_s:g} s, it says")
    if report.closed_after_s is not None:
        found.append(f"closed an idle one after {report.closed_after_s:g} s")
    return found


def _options(reply: bytes) -> dict[int, bytes]:
    layout = records_of(reply, question_of(reply))
    if not layout.opt_at:
        return {}
    return {code: reply[start + 4 : end] for code, start, end in options_of(reply, layout.opt_at, layout.opt_end)}


def _types(reply: bytes) -> set[int]:
    from dotproxy.wire.records import walk

    _, _, _, answers, authorities, additionals = HEADER.unpack_from(reply)
    return {record.type for record in walk(reply, question_of(reply), answers + authorities + additionals)}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)


#: By which an upstream tells what there is, and what is not.
_GOOD = ("NOERROR", "NXDOMAIN")
