"""
What a server may do with TLS once the handshake is over: send session tickets and new keys, a few of them.

Decides that a connection ends when its server asks to renegotiate (TLS 1.2: it could show another certificate, which
nobody would look at; RFC 9325 §3.5), or sends more than ``MAX_MESSAGES`` handshake messages afterwards (TLS 1.3: each
costs 20 µs and brings nothing).  ``OP_NO_RENEGOTIATION`` alone makes OpenSSL decline and go on; here the connection
ends, and is ended too where OpenSSL would agree.

The reason is left in ``refusal`` of the connection, which its next ``recv`` raises (``records``).
"""

from __future__ import annotations

from typing import cast

from OpenSSL import SSL

from dotproxy.upstream.tls_reads import WholeReads

#: Session tickets and key updates over one connection.  Servers send two tickets as a rule, and new keys after millions
#: of records.
MAX_MESSAGES = 100

#: The alert by which OpenSSL declines: a warning (1), no_renegotiation (100).
_DECLINED = 1 << 8 | 100

_RENEGOTIATION = "the server asked to renegotiate, which could replace its certificate; it is refused (RFC 9325 §3.5)"
_TOO_MANY = f"the server sent more than {MAX_MESSAGES} session tickets and key updates"


class PostHandshakeWatch:
    """
    Called by OpenSSL at each step of one connection's handshakes.
    """

    __slots__ = ("_is_done", "_messages")

    def __init__(self) -> None:
        self._is_done = False
        self._messages = -1  # the end of the handshake itself is reported as one

    def __call__(self, connection: SSL.Connection, where: int, value: int) -> None:
        """
        Leave in ``connection.refusal`` why it has to end, if it has to.
        """
        if not self._is_done:
            self._is_done = bool(where & SSL.SSL_CB_HANDSHAKE_DONE)
        elif where & SSL.SSL_CB_HANDSHAKE_START or (where == SSL.SSL_CB_WRITE_ALERT and value == _DECLINED):
            # With TLS 1.3, which knows no renegotiation, OpenSSL reports one start only.
            cast(WholeReads, connection).refusal = _RENEGOTIATION
        elif where == SSL.SSL_CB_CONNECT_EXIT and value == 1:
            self._messages += 1
            if self._messages > MAX_MESSAGES:
                cast(WholeReads, connection).refusal = _TOO_MANY
