"""
An HTTP/1.1 request, read (RFC 9112): request line and headers.

Decides what a request may be, and how large.  Strict: what two programs could read in two ways is no request.  Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: Octets of a request line and its headers, how many headers, and octets of a body where there may be one.
MAX_HEAD = 8192
MAX_HEADERS = 64
MAX_BODY = 4096

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t\x80-\xff]*?)[ \t]*")


class Request(NamedTuple):
    """
    What was asked; ``host`` is None if an HTTP/1.0 client did not say whom it asks.
    """

    method: str
    path: str
    query: str
    host: str | None
    body: bytes = b""


class BadRequest(Exception):
    """
    What cannot be answered; the connection is closed after the response that says so.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Head(NamedTuple):
    """
    A request without its body, of which ``length`` octets follow; ``is_last``: none comes after it.
    """

    request: Request
    length: int
    is_last: bool


def parse_head(octets: bytes, max_body: int) -> Head:
    """
    Parse a request line and headers, without the empty line after them.

    :raises BadRequest: saying what is wrong.
    """
    first, *lines = octets.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise BadRequest(431, f"more than {MAX_HEADERS} headers")
    asked = _REQUEST_LINE.fullmatch(first)
    if asked is None:
        raise BadRequest(400, "not a request that is understood")
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadRequest(400, "a malformed header")
        headers.setdefault(found[1].lower(), []).append(found[2])
    is_1_1 = asked[3] == b"1"
    hosts = headers.get(b"host", [])
    if len(hosts) > 1 or (is_1_1 and not hosts):
        raise BadRequest(400, f"{len(hosts)} Host headers")  # RFC 9112 section 3.2
    connection = b",".join(headers.get(b"connection", [])).lower()
    is_last = not is_1_1 or b"close" in [word.strip() for word in connection.split(b",")]
    path, _, query = asked[2].decode("ascii").partition("?")
    host = hosts[0].decode("latin-1") if hosts else None
    return Head(Request(asked[1].decode("ascii"), path, query, host), _length(headers, max_body), is_last)


def _length(headers: dict[bytes, list[bytes]], max_body: int) -> int:
    """
    Return how long the body is.

    :raises BadRequest: if that is not told as a number, or is too much.
    """
    if b"transfer-encoding" in headers:
        raise BadRequest(411, "a body must have a Content-Length")
    lengths = headers.get(b"content-length", [b"0"])
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 10:
        raise BadRequest(400, "not a Content-Length")
    length = int(lengths[0])
    if length > max_body:
        raise BadRequest(413, f"a body of more than {max_body} octets")
    return length
