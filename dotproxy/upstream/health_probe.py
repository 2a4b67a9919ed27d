"""
The query sent to a silent upstream, to find out whether it replies.

It asks for the name servers of the root, so that it discloses nothing about clients.  RD is clear, so that an upstream
answers from its cache, or refuses, which is a reply too; it need not resolve anything.
"""

from __future__ import annotations

from typing import Final

from dotproxy.wire.message import HEADER, HEADER_SIZE, IN, parse_query
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.rrtypes import NS


class Probe:
    """
    The token of a probe.
    """


PROBE: Final = Probe()
_MESSAGE: Final = HEADER.pack(0, 0, 1, 0, 0, 0) + b"\0" + NS.to_bytes(2, "big") + IN.to_bytes(2, "big")

#: (token, query message, offset after its question): ``. NS``, padded as all queries are (RFC 8467 §4.1).
PROBE_QUERY: Final = (PROBE, EdnsRewriter().rewrite_query(_MESSAGE, parse_query(_MESSAGE)), HEADER_SIZE + 5)
