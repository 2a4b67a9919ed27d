"""
Cookies towards UDP clients (RFC 7873).

Decides which cookie a client gets.  A client that sends cookies can tell our answers from forged ones by its
own half coming back; our half is made of a secret, the client's half and its address, so that it is worth
nothing to anybody else.  Clients are not told apart by it: all are served alike (RFC 7873 §5.2.3, §5.2.4).
"""

from __future__ import annotations

from hashlib import blake2s

from dotproxy.errors import WireError
from dotproxy.wire.edns import COOKIE, option, options_of
from dotproxy.wire.message import FORMERR, QueryInfo

#: A client's half, and how long both together may be (RFC 7873 §4).
CLIENT_SIZE = 8
_WITH_SERVER_HALF = range(16, 41)

_SERVER_SIZE = 16


class Cookies:
    """
    Made with ``secret``, up to 32 unpredictable octets.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def option_for(self, query: bytes, info: QueryInfo, host: str) -> bytes:
        """
        Return the COOKIE option that the answer to ``query`` from the address ``host`` gets, ``b""`` if it has none.

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
