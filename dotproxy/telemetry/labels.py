"""
The values of the metrics' labels, with a description of each.

Decides the descriptions, of which docs/metrics.md has a table; the values themselves come from the code that counts.  A
label has a fixed set of values, or values from the configuration; no query name, no client address and no text from an
upstream becomes one.
"""

from __future__ import annotations

from dotproxy.errors import ClientEnd, ConnectionEnd, ShedReason
from dotproxy.telemetry.counters import RCODES, TRANSPORTS, TYPE_GROUPS

_ENDS = {
    ConnectionEnd.PEER_CLOSED: "the upstream closed it properly",
    ConnectionEnd.CONNECTION_LOST: "it broke: reset, timed out by TCP, or ended without close_notify",
    ConnectionEnd.TLS_ERROR: "TLS failed on it",
    ConnectionEnd.IDLE: "nothing was asked for `upstream_idle_timeout`, or for what the upstream grants (RFC 7828)",
    ConnectionEnd.AGE: "it was ten minutes old, and idle",
    ConnectionEnd.REPLACED: "another took its place, and it had answered everything",
    ConnectionEnd.SILENCE: "what it was asked was not answered in time",
    ConnectionEnd.INVALID_MESSAGE: "the upstream sent what cannot be DNS",
    ConnectionEnd.ASKED_TO_CLOSE: "the upstream granted an idle time of 0 (RFC 7828), and had answered everything",
    ConnectionEnd.ABORTED: "the upstream granted an idle time of 0, and did not answer what was outstanding",
    ConnectionEnd.NETWORK: "the machine woke up, or has another network",
    ConnectionEnd.CREDENTIALS: "the CAs or the client certificate were replaced",
    ConnectionEnd.STOPPED: "dotproxy, or this upstream of it, was stopped",
    ConnectionEnd.OTHER: "anything else",
}

_SHED = {
    ShedReason.TOO_OLD: "it waited in the receive buffer of the UDP socket for longer than clients wait for a response",
    ShedReason.RATE: "its client is over client_rate, and there is more to do than can be done",
    ShedReason.IN_FLIGHT: "its client has had its share of the queries in flight, or of their octets",
    ShedReason.SOURCE_PORT: "it came from a UDP port that is never answered",
    ShedReason.NOT_ALLOWED: "its client is not served, and is not told so",
    ShedReason.RESPONSE_RATE: "its response was over response_rate_limit: dropped, or sent truncated",
}

_CLIENT_ENDS = {
    ClientEnd.EVICTED: "it made room for another client's; its own client had more connections than others, or it was"
    " idle",
    ClientEnd.IDLE: "no query came for `tcp_idle_timeout`",
    ClientEnd.NOT_READ: "the client read nothing for `tcp_idle_timeout` though there were responses",
    ClientEnd.REFUSED: "it was refused: there were `tcp_max_connections`, and none to be ended for it",
    ClientEnd.UNREAD: "2 MiB of responses on it was not read",
    ClientEnd.UNREAD_IN_ALL: "32 MiB of responses to all clients was not read, and its client had most of that",
}

#: Labels with a fixed set of values, with the description of each value.
FIXED: dict[str, dict[str, str]] = {
    "transport": dict(
        zip(TRANSPORTS, ("over UDP", "over TCP", "asked by the program itself, as a library", "over TLS"), strict=True)
    ),
    "type": {
        name: {"DNSSEC": "DS, RRSIG, DNSKEY, …", "other": "all others"}.get(name, "QTYPE") for name in TYPE_GROUPS
    },
    "rcode": dict.fromkeys(RCODES, "the response code without its extension by EDNS"),
    "end": {str(end): text for end, text in _CLIENT_ENDS.items()},
    "cause": {str(reason): text for reason, text in _SHED.items()},
    "where": {"here": "answered without asking an upstream", "asked": "after an upstream was asked"},
    "result": {
        "memo": "the same octets were answered within this second",
        "fresh": "cache hit",
        "stale": "expired, and no fresh response was to be had (RFC 8767)",
        "failed_before": "it failed a moment ago (RFC 9520)",
        "joined": "waited with the same query in flight",
        "missed": "cache miss",
    },
    "by": {"us": "closed here", "peer": "ended by the upstream or the network"},
    "reason": {str(end): text for end, text in _ENDS.items()},
    "phase": {
        "resolve": "the upstream's name could not be looked up",
        "connect": "no TCP connection: refused, no route, timed out",
        "tls": "the handshake failed",
        "verify": "the certificate is not what it must be",
        "read": "no response; counted for no connection",
    },
    "purpose": {
        "upstream": "of clients, to an upstream: a defect",
        "bootstrap": "for upstreams' names, to a `bootstrap` server given as `udp://ADDRESS`",
    },
    "over": {"udp": "datagrams", "tcp": "connections", "tls": "connections for TLS"},
    "outcome": {
        "completed": "the client can ask",
        "failed": "the client and dotproxy did not agree, or it left",
        "timed_out": "it took longer than 5 s",
    },
    "resumed": {"yes": "a TLS session was resumed", "no": "a full handshake"},
}

#: Labels with values from the configuration or the installation.
OPEN = {
    "upstream": "one of those configured, by its label",
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
