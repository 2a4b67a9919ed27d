"""
``dotproxy probe``: an examination of upstreams.

Decides what is tested, in which order, and how the result is printed.  No query is sent to a server that is not
verified; of such a server only its TLS handshake is shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.threads import deferToThread

from dotproxy.cli.message_text import extended_error_text, rcode_name
from dotproxy.cli.session import Session, build_verifier, connect
from dotproxy.cli.tls_inspect import TlsDetails, inspect
from dotproxy.config.model import Config
from dotproxy.errors import ConnectionGone, DotproxyError
from dotproxy.service.reactor import IServiceReactor
from dotproxy.telemetry.plural import pluralized
from dotproxy.upstream.spec import UpstreamAddress, endpoint_text
from dotproxy.wire.edns import DO, ECS, EDE_OPTION, KEEPALIVE, PADDING, opt_record, option, options_of
from dotproxy.wire.message import AD, HEADER, RD, TC, question_of, records_of
from dotproxy.wire.names import from_text, to_text
from dotproxy.wire.printable import printable, short_printable
from dotproxy.wire.rrtypes import DNSKEY, RRSIG, SOA, TXT

#: Client subnet 198.51.100.0/24 (RFC 5737), to see whether the response echoes it.
_SUBNET = option(ECS, b"\0\1\x18\0\xc6\x33\x64")


@dataclass
class ProbeReport:
    """
    What was found out about one address of an upstream.  Times are in milliseconds.
    """

    upstream: str
    address: str
    shows: TlsDetails
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
        Whether the upstream is usable: it is verified, and responds with NOERROR or NXDOMAIN.
        """
        return not self.problem and self.rcode in _GOOD


class Prober:
    """
    Probes addresses of upstreams.

    ``name`` is asked about; ``idle`` is for how many seconds an idle connection is watched, 0 to leave that out.
    """

    def __init__(self, config: Config, reactor: IServiceReactor, name: str = ".", idle: float = 0.0) -> None:
        self._config = config
        self._reactor = reactor
        self._name = from_text(name if name.endswith(".") else name + ".")
        self._idle = idle
        self._ident = 0

    async def probe(self, upstream: UpstreamAddress, host: str, port: int) -> ProbeReport:
        """
        Return what is found out about one address; problems are part of the report.
        """
        config = self._config
        shows = await deferToThread(inspect, host, port, upstream.name, config.connect_timeout)
        report = ProbeReport(upstream.label, endpoint_text(host, port), shows)
        verifier = build_verifier(config, upstream, host)
        try:
            session, took = await connect(self._reactor, host, port, verifier, config.connect_timeout)
            report.cold_ms, report.verified = _milliseconds(took), session.identity.verified
            if not session.identity.chain.is_root:
                anchor = session.identity.chain.anchor
                report.notes.append(
                    f"trusted because ca_file holds {anchor}, which is not a root: its issuers are not checked"
                )
            try:
                await self._run_tests(session, report)
            except ConnectionGone as error:
                if not report.rcode:
                    raise
                report.notes.append(f"the connection ended during the tests: {error.reason}")
            finally:
                session.close()
            again, took = await connect(self._reactor, host, port, verifier, config.connect_timeout)
            report.resumed_ms, report.is_resumed = _milliseconds(took), again.identity.resumed
            if self._idle:
                await self._watch_idle(again, report)
            again.close()
        except DotproxyError as error:
            report.problem = str(error)
        except Exception as error:
            is_late = isinstance(error, TookTooLong)
            report.problem = (
                "read: no response in time" if is_late else short_printable(f"{type(error).__name__}: {error}")
            )
        return report

    async def _run_tests(self, session: Session, report: ProbeReport) -> None:
        """
        Send test queries, and record what the responses show.
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
            report.notes.append(f"responded with {report.rcode} to the first query")
        self._judge(reply, report)  # the later response counts: a resolver with an empty cache may fail once
        reply = await self._optional_reply(session, report, "client subnet", self._name, SOA, _SUBNET)
        report.echoes_subnet = ECS in _options(reply) if reply else None
        reply = await self._optional_reply(session, report, "the root's DNSKEY", b"\0", DNSKEY, flags=DO)
        if reply:
            has_signatures = RRSIG in _types(reply)
            report.dnssec = "validates" if reply[3] & AD else "signatures" if has_signatures else "none"
            report.largest_answer = len(reply)
            if reply[2] & TC >> 8:
                report.notes.append("truncates over TLS")
        await self._ask_many(session, report)

    def _judge(self, reply: bytes, report: ProbeReport) -> None:
        """
        Record the rcode; other than NOERROR and NXDOMAIN it is a problem.
        """
        report.rcode = rcode_name(reply[3] & 15)
        report.problem = ""
        if report.rcode not in _GOOD:
            error = _options(reply).get(EDE_OPTION, b"")
            why = f"; EDE: {extended_error_text(error)}" if len(error) >= 2 else ""
            report.problem = f"responds with {report.rcode} to {to_text(self._name)} SOA{why}"

    async def _optional_reply(
        self,
        session: Session,
        report: ProbeReport,
        what: str,
        name: bytes,
        rtype: int,
        options: bytes = b"",
        flags: int = 0,
    ) -> bytes:
        """
        Return the response to a query that a server may ignore, b"" if there is none.
        """
        try:
            reply: bytes = await self._ask(session, name, rtype, options, flags)
        except TookTooLong:
            report.notes.append(f"no response to a query with {what}" if options else f"no response to {what}")
            return b""
        return reply

    async def _ask_many(self, session: Session, report: ProbeReport) -> None:
        """
        Send eight queries at once, those with uncached names first, and record whether responses come in another order.
        """
        session.answered.clear()
        stamp = f"{time.time_ns():x}".encode()
        names = [bytes((len(label),)) + label + self._name for label in (b"p%d-" % n + stamp for n in range(4))]
        queries = [self._query(name, TXT) for name in names] + [self._query(self._name, SOA) for _ in range(4)]
        results = await DeferredList(session.ask(queries, self._reactor), consumeErrors=True)
        if not all(good for good, _ in results):
            report.notes.append("does not respond to eight queries at once")
        report.out_of_order = session.answered != sorted(session.answered)

    async def _watch_idle(self, session: Session, report: ProbeReport) -> None:
        """
        Record after how many idle seconds the server closes the connection.
        """
        await self._ask(session, self._name, SOA)
        began = time.monotonic()
        try:
            await session.closed.addTimeout(self._idle, self._reactor)
            report.closed_after_s = round(time.monotonic() - began, 1)
        except Exception:
            report.notes.append(f"does not close when idle for {self._idle:g} s")

    def _ask(self, session: Session, name: bytes, rtype: int, options: bytes = b"", flags: int = 0) -> Deferred[bytes]:
        (reply,) = session.ask([self._query(name, rtype, options, flags)], self._reactor)
        return reply

    def _query(self, name: bytes, rtype: int, options: bytes = b"", flags: int = 0) -> bytes:
        self._ident += 1
        question = name + rtype.to_bytes(2, "big") + b"\0\1"
        return HEADER.pack(self._ident, RD, 1, 0, 0, 1) + question + opt_record(1232, 0, flags, options)


async def probe_all(
    prober: Prober, upstreams: Sequence[UpstreamAddress], say: Callable[[str], None], *, as_json: bool
) -> bool:
    """
    Probe each address of ``upstreams`` and print a report; return whether each upstream is usable at one of them.
    """
    everything: list[dict[str, object]] = []
    are_good: list[bool] = []
    for upstream in upstreams:
        reports: list[ProbeReport] = []
        for host, port in upstream.addresses:
            report = await prober.probe(upstream, host, port)
            reports.append(report)
            if not as_json:
                say(report_text(report))
        if upstream.host:
            host, _ = upstream.host
            report = ProbeReport(upstream.label, host, TlsDetails(), problem="give its address: ADDRESS#NAME")
            reports.append(report)
            if not as_json:
                say(report_text(report))
        are_good.append(any(report.is_good for report in reports))
        everything += [{**asdict(report), "is_good": report.is_good} for report in reports]
    if as_json:
        say(json.dumps(everything, indent=2, default=str))
    return all(are_good)


def report_text(report: ProbeReport) -> str:
    """
    Return a report as lines of text.
    """
    tls = report.shows
    lines = [f"{report.upstream} at {report.address}"]

    def line(label: str, text: str) -> None:
        if text:
            lines.append(f"  {label:<13} {printable(text)}")

    verdict = f"verified as {report.verified}" if report.verified else ""
    line("verdict", f"{verdict}, but not usable" if verdict and report.problem else verdict)
    line("problem", report.problem)
    line("what it shows", tls.error)
    line("times", ", ".join(_times(report)))
    line("TLS", " ".join(filter(None, (tls.tls_version, tls.cipher, f"ALPN {tls.alpn}" if tls.alpn else ""))))
    if tls.names or tls.expires:
        line("certificate", f"for {', '.join(tls.names) or 'no name'}; by {tls.issuer}")
    if tls.expires:
        days = (tls.expires - datetime.now(UTC)).days
        left = f"{pluralized(days, 'day')} left" if days >= 0 else f"{pluralized(-days, 'day')} ago"
        line("expires", f"{tls.expires:%Y-%m-%d} ({left})")
    line("pin", f"?pin-sha256={tls.pin}" if tls.pin else "")
    line("answers", ", ".join(_answers(report)))
    for note in report.notes:
        line("note", note)
    return "\n".join(lines) + "\n"


def _times(report: ProbeReport) -> list[str]:
    times = [
        ("TCP", report.shows.tcp_ms),
        ("TCP and TLS", report.cold_ms),
        ("resumed" if report.is_resumed else "again, not resumed", report.resumed_ms),
        ("first query", report.first_query_ms),
        ("warm query", report.warm_query_ms),
    ]
    return [f"{label} {value:g} ms" for label, value in times if value is not None]


def _answers(report: ProbeReport) -> list[str]:
    if not report.rcode:
        return []
    found = [report.rcode]
    if report.dnssec:
        found += [f"DNSSEC: {report.dnssec}", f"largest {report.largest_answer} octets"]
    found.append("padded" if report.pads else "not padded")
    found.append("in any order" if report.out_of_order else "in order")
    if report.echoes_subnet is not None:
        found.append("client subnet echoed" if report.echoes_subnet else "client subnet not echoed")
    if report.idle_timeout_s is not None:
        found.append(f"announces an idle timeout of {report.idle_timeout_s:g} s")
    if report.closed_after_s is not None:
        found.append(f"closed an idle connection after {report.closed_after_s:g} s")
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


#: Rcodes of a usable upstream: the name exists, or it does not.
_GOOD = ("NOERROR", "NXDOMAIN")
