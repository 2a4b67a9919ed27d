"""
A TLS client in memory, on the other side of a protocol under test.
"""

from __future__ import annotations

import contextlib
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport


class Transport(StringTransport):
    """
    A TCP transport that notes what is done to it.
    """

    def __init__(self, host: str = "127.0.0.9") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 4711))
        self.is_aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Nothing to note.
        """

    def abortConnection(self) -> None:
        """
        The connection is ended at once.
        """
        self.is_aborted = True
        super().abortConnection()


class TlsClient:
    """
    A client connected to ``protocol``, which has ``transport``.

    ``read`` holds what came over TLS, ``error`` why that failed.
    """

    def __init__(self, protocol: Any, transport: Transport, context: SSL.Context | None = None, **changes: Any) -> None:
        self.protocol = protocol
        self.transport = transport
        self.read = b""
        self.error = ""
        self.is_closed = False
        self.session: Any = None
        self.connection = SSL.Connection(context or client_context(**changes), None)
        self.connection.set_connect_state()

    def shake_hands(self) -> bool:
        """
        Return whether the handshake came to its end.
        """
        for _ in range(6):
            try:
                self.connection.do_handshake()
            except SSL.WantReadError:
                self.exchange()
                continue
            except SSL.Error as error:
                self.error = self.error or str(error)
                return False
            break
        self.exchange()
        return not self.error

    def send(self, data: bytes) -> None:
        """
        Send octets over TLS, and take what comes back.
        """
        self.connection.send(data)
        self.exchange()

    def close(self) -> None:
        """
        Send a close_notify.
        """
        self.connection.shutdown()
        self.exchange()

    def exchange(self) -> None:
        """
        Carry octets both ways.
        """
        for _ in range(4):
            with contextlib.suppress(SSL.WantReadError):
                self.protocol.dataReceived(self.connection.bio_read(1 << 20))
            came = self.transport.value()
            self.transport.clear()
            if came:
                self.connection.bio_write(came)
            self._take()

    def _take(self) -> None:
        try:
            while True:
                self.read += self.connection.recv(1 << 16)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.is_closed = True
        except SSL.Error as error:
            self.error = self.error or str(error)


def client_context(
    *,
    alpn: list[bytes] | None = None,
    version: int | None = None,
    ciphers: bytes = b"",
    certificate: Any = None,
) -> SSL.Context:
    """
    A client that verifies nothing.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if alpn:
        context.set_alpn_protos(alpn)
    if version:
        context.set_max_proto_version(version)
        context.set_min_proto_version(version)
    if ciphers:
        context.set_cipher_list(ciphers)
    if certificate is not None:
        context.use_certificate(certificate.certificate)
        context.use_privatekey(certificate.key)
    return context
