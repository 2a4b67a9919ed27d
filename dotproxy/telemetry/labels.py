"""
The values of metric labels, with a description of each.

Decides the descriptions; the table in docs/metrics.md is generated from them.  The values come from the code that
counts.  A label has a fixed set of values, or values from the configuration; query names, client addresses and texts
from an upstream are never label values.
"""

from __future__ import annotations

from dotproxy.errors import ClientEnd, ConnectionEnd, ShedReason
from dotproxy.telemetry.counters import RCODES, TRANSPORTS, TYPE_GROUPS

_ENDS = {
    ConnectionEnd.PEER_CLOSED: "the upstream closed it with close_notify",
    ConnectionEnd.CONNECTION_LOST: "reset, TCP timeout, or end without close_notify",
    ConnectionEnd.TLS_ERROR: "TLS error",
    ConnectionEnd.IDLE: "no query for `upstream_idle_timeout`, or for the upstream's own idle timeout (RFC 7828)",
    ConnectionEnd.AGE: "older than ten minutes, and idle",
    ConnectionEnd.REPLACED: "replaced by another connection, after the last response",
    ConnectionEnd.SILENCE: "no response in time",
    ConnectionEnd.INVALID_MESSAGE: "the upstream sent octets that are not a DNS message",
    ConnectionEnd.ASKED_TO_CLOSE: "the upstream sent an idle timeout of 0 (RFC 7828); no query was in flight",
    ConnectionEnd.ABORTED: "the upstream sent an idle timeout of 0, and did not respond to the queries in flight",
    ConnectionEnd.NETWORK: "the machine resumed from sleep, or changed networks",
    ConnectionEnd.CREDENTIALS: "the CAs or the client certificate were replaced",
    ConnectionEnd.STOPPED: "dotproxy was stopped, or a reload removed the upstream",
    ConnectionEnd.OTHER: "anything else",
}

_SHED = {
    ShedReason.TOO_OLD: "it was in the receive buffer of the UDP socket for longer than clients wait for a response",
    ShedReason.RATE: "its client exceeded `client_rate` under overload",
    ShedReason.IN_FLIGHT: "its client has its share of the queries in flight, or of their octets",
    ShedReason.SOURCE_PORT: "it came from a UDP source port that gets no responses",
    ShedReason.NOT_ALLOWED: "its client is outside `allow_from`, and it got no response",
    ShedReason.RESPONSE_RATE: "its response exceeded `response_rate_limit`: dropped, or sent truncated",
}

_CLIENT_ENDS = {
    ClientEnd.EVICTED: "closed at `tcp_max_connections` for a new connection: its client had more connections than"
    " others, or it was idle",
    ClientEnd.IDLE: "no query for `tcp_idle_timeout`",
    ClientEnd.NOT_READ: "the client did not read its responses for `tcp_idle_timeout`",
    ClientEnd.REFUSED: "refused at `tcp_max_connections`: no other connection could be closed for it",
    ClientEnd.UNREAD: "it had 2 MiB of unread responses",
    ClientEnd.UNREAD_IN_ALL: "all clients together had 32 MiB of unread responses, its client the most",
}

#: Labels with a fixed set of values, with the description of each value.
FIXED: dict[str, dict[str, str]] = {
    "transport": dict(
        zip(
            TRANSPORTS,
            ("over UDP", "over TCP", "queries of the same process, through the library", "over TLS"),
            strict=True,
        )
    ),
    "type": {
        name: {"DNSSEC": "DS, RRSIG, DNSKEY, …", "other": "all others"}.get(name, "QTYPE") for name in TYPE_GROUPS
    },
    "rcode": dict.fromkeys(RCODES, "the response code without its extension by EDNS"),
    "end": {str(end): text for end, text in _CLIENT_ENDS.items()},
    "cause": {str(reason): text for reason, text in _SHED.items()},
    "where": {"here": "no upstream was queried", "asked": "an upstream was queried"},
    "result": {
        "memo": "packet cache hit: the same query within one second",
        "fresh": "cache hit",
        "stale": "expired response, because there was no fresh one in time (RFC 8767)",
        "failed_before": "failure cache hit: it failed a short time ago (RFC 9520)",
        "joined": "an identical query was in flight",
        "missed": "cache miss",
    },
    "by": {"us": "closed by dotproxy", "peer": "closed by the upstream, or broken by the network"},
    "reason": {str(end): text for end, text in _ENDS.items()},
    "phase": {
        "resolve": "the upstream's name did not resolve",
        "connect": "no TCP connection: refused, no route, or timeout",
        "tls": "the TLS handshake failed",
        "verify": "the certificate was not accepted",
        "read": "no response (not used for connections)",
    },
    "purpose": {
        "upstream": "clients' queries to an upstream: a defect",
        "bootstrap": "lookups of upstreams' names at a `bootstrap` server given as `udp://ADDRESS`",
    },
    "over": {"udp": "datagrams", "tcp": "connections", "tls": "connections to a TLS listener"},
    "outcome": {
        "completed": "the handshake succeeded",
        "failed": "no agreement on TLS parameters, or the client disconnected",
        "timed_out": "it took longer than 5 s",
    },
    "resumed": {"yes": "a TLS session was resumed", "no": "a full handshake"},
}

#: Labels with values from the configuration or the installation.
OPEN = {
    "upstream": "the label of a configured upstream",
    "worker": "the number of a worker",
    "version": "dotproxy's version",
    "python": "Python's",
    "twisted": "Twisted's",
    "openssl": "OpenSSL's",
    "pyopenssl": "pyOpenSSL's",
}


def labels_table() -> str:
    """
    Return the Markdown table of all labels.
    """
    lines = ["| label | values |", "|---|---|"]
    for label, values in FIXED.items():
        texts = list(values.values())
        if len(set(texts)) <= len(texts) / 2:  # most values need no description
            others = [f"`{value}` ({text})" for value, text in values.items() if texts.count(text) == 1]
            shown = ", ".join(f"`{value}`" for value, text in values.items() if texts.count(text) > 1)
            shown = ", ".join([shown, *others])
        else:
            shown = "; ".join(f"`{value}`: {text}" for value, text in values.items())
        lines.append(f"| `{label}` | {shown} |")
    lines += [f"| `{label}` | {text} |" for label, text in OPEN.items()]
    return "\n".join(lines) + "\n"
