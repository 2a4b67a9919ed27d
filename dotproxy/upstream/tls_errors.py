"""
Errors of TLS, as text.

Decides the text for each way in which OpenSSL and Twisted end a connection, and its kind: lasting (a retry soon is no
use) or temporary.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from dotproxy.errors import ConnectionEnd, ConnectionGone, Incompatible, Unreachable, UpstreamError

#: OpenSSL's words for a peer that closed during the handshake, which may be temporary.
_END_OF_FILE = "unexpected eof"

#: What OpenSSL's verify callback reports, in words (X509_V_ERR_*).
_CHAIN_ERRORS = {
    2: "the chain ends in an intermediate CA without its root; ca_file may name the intermediate itself",
    7: "a signature in the certificate chain is wrong",
    9: "the certificate is not yet valid",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate chain ends in an unknown self-signed CA",
    20: "the certificate is from an unknown CA",
    21: "the certificate's signer was not sent and is not known",
    22: "the certificate chain is too long",
    23: "the certificate was revoked",
    24: "the certificate's signer is not a CA",
    25: "a CA in the chain may not have as many CAs below it",
    26: "the certificate is not meant for TLS servers",
    47: "a CA in the chain may not sign for the certificate's names",
    48: "a CA in the chain may not sign for the certificate's names",
    66: "the certificate's key is too short",
    67: "the key of a CA in the chain is too short",
    68: "a signature in the chain uses a hash that is too weak",
    79: "the certificate's signer is not a CA",
}

#: What OpenSSL says (in part) when there is nothing both sides would speak, and which setting may change that.
_HINTS = {
    "alert handshake failure": "it has none of the ciphers offered with TLS 1.2 (tls_ciphers allows others), or wants"
    " a client certificate (client_certificate)",
    "wrong cipher returned": "it insists on a cipher that is not allowed (tls_ciphers)",
    "alert insufficient security": "it has none of the ciphers offered (tls_ciphers allows others)",
    "alert protocol version": "it does not speak the versions of TLS that are allowed (tls_minimum)",
    "unsupported protocol": "it does not speak the versions of TLS that are allowed (tls_minimum)",
    "certificate required": "it wants a client certificate (client_certificate)",
    "excessive message size": "it sent more than a handshake may hold",
    "dh key too small": "it offers a key exchange that is too weak",
    "ee key too small": "its certificate's key is too short",
}


def chain_error(code: int, depth: int) -> str:
    """
    Return what OpenSSL's verify callback reported of the certificate ``depth`` steps above the server's own.
    """
    text = _CHAIN_ERRORS.get(code, f"the certificate chain is not valid (X509 error {code})")
    return f"{text} (certificate {depth} of the chain)" if depth else text


def handshake_error(failure: Failure) -> UpstreamError:
    """
    Return why a connection ended before its handshake was over, if not for its certificate.
    """
    if not failure.check(SSL.Error):
        return Unreachable("tls", f"{closed_how(failure)} during the handshake")
    reason = _openssl_reason(failure.value)
    kind = Unreachable if _END_OF_FILE in reason else Incompatible
    hint = next((f": {hint}" for part, hint in _HINTS.items() if part in reason), "")
    return kind("tls", f"the handshake failed: {reason}{hint}")


def closed_how(failure: Failure) -> str:
    """
    Return how a connection ended, as text.
    """
    if failure.check(ConnectionDone):
        return "the upstream closed the connection"
    if failure.check(SSL.Error):
        return f"TLS failed: {_openssl_reason(failure.value)}"
    if failure.check(ConnectionAborted):
        return "the connection was given up"
    if failure.check(ConnectionLost):
        return "the connection broke"
    return f"the connection broke ({failure.getErrorMessage()})"


def lost(failure: Failure) -> ConnectionGone:
    """
    Return the error for a verified connection that ended.
    """
    error = ConnectionGone("read", closed_how(failure))
    if failure.check(ConnectionDone):
        error.code = ConnectionEnd.PEER_CLOSED
    elif failure.check(SSL.Error):
        error.code = ConnectionEnd.TLS_ERROR
    elif failure.check(ConnectionAborted):
        error.code = ConnectionEnd.ABORTED
    return error


def _openssl_reason(error: object) -> str:
    try:
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "connection closed"  # type: ignore[attr-defined]
    except (AttributeError, IndexError, TypeError):
        return str(error) or type(error).__name__
