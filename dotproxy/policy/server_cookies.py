"""
DNS cookies for UDP clients (RFC 7873).

Decides which server cookie a client gets: a keyed hash of its client cookie and address.  A client that sends cookies
recognizes forged responses by its client cookie missing from them.  Requests without a valid server cookie are served
all the same (RFC 7873 §5.2.3, §5.2.4).
"""

from __future__ import annotations

from hashlib import blake2s

from dotproxy.errors import WireError
from dotproxy.wire.edns import COOKIE, option, options_of
from dotproxy.wire.message import FORMERR, QueryInfo

#: Octets of a client cookie, and of client and server cookie together (RFC 7873 §4).
CLIENT_SIZE = 8
_WITH_SERVER_HALF = range(16, 41)

_SERVER_SIZE = 16


class ServerCookies:
    """
    Server cookies made with ``secret``, up to 32 unpredictable octets.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def option_for(self, query: bytes, info: QueryInfo, host: str) -> bytes:
        """
        Return the COOKIE option of the response to ``query`` from the address ``host``, ``b""`` if the query has none.

        :raises WireError: if the query's is malformed (RFC 7873 §5.2.2: FORMERR).
        """
        for code, start, end in options_of(query, info.opt_at, info.opt_end):
            if code == COOKIE:  # the first counts (RFC 7873 §5.2)
                size = end - start - 4
                if size != CLIENT_SIZE and size not in _WITH_SERVER_HALF:
                    raise WireError(f"a cookie of {size} octets", FORMERR)
                client = query[start + 4 : start + 4 + CLIENT_SIZE]
                ours = blake2s(client + host.encode(), key=self._secret, digest_size=_SERVER_SIZE).digest()
                return option(COOKIE, client + ours)
        return b""
