"""
The question asked of an upstream that went silent, to learn whether it answers again.

It is dotproxy's own and tells nothing about anybody: the name servers of the root.  RD is clear, so that
an upstream answers from what it has, or refuses, which is an answer too; it need not ask anybody.
"""

from __future__ import annotations

from typing import Final

from dotproxy.wire.message import HEADER, HEADER_SIZE, IN, parse_query
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.rrtypes import NS


class Probe:
    """
    The token under which a probe's answer comes back.
    """


PROBE: Final = Probe()
_MESSAGE: Final = HEADER.pack(0, 0, 1, 0, 0, 0) + b"\0" + NS.to_bytes(2, "big") + IN.to_bytes(2, "big")

#: (token, query message, offset after its question): ``. NS``, padded as all questions are (RFC 8467 §4.1).
PROBE_QUESTION: Final = (PROBE, EdnsRewriter().rewrite_query(_MESSAGE, parse_query(_MESSAGE)), HEADER_SIZE + 5)
