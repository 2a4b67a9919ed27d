"""
A server that has a right certificate, or none, and does with TLS what servers do not do.

    python -m tests.integration.hostile_tls MODE CERTIFICATE KEY [OTHER_CERTIFICATE OTHER_KEY]

Prints its port, then a line for each query (with the certificate that its handshake was made with) and for the end of
each flood.  Uses the system's OpenSSL as it is, for pyOpenSSL has no key updates.
"""

import ctypes
import socket
import struct
import sys
import threading
import time
from typing import Any

#: How long a flood goes on, unless the connection ends, and how much it may send.
SECONDS, OCTETS = 6.0, 200_000_000

PEM = 1
TLS_1_2 = 0x0303
SET_MAX_PROTO_VERSION = 124
ESTABLISHED = 1
UPDATE_NOT_REQUESTED, UPDATE_REQUESTED = 0, 1

_SERVER_HELLO = b"\x16\x03\x03"

#: Without a handshake: what is sent first, and what is sent again and again after it.
RAW = {
    "huge_message": (
        _SERVER_HELLO + b"\x40\0\x02\xff\xff\xff" + bytes(16380),
        _SERVER_HELLO + b"\x40\0" + bytes(16384),
    ),
    "huge_certificate": (b"", _SERVER_HELLO + b"\x40\0\x0b\xff\xff\xff" + bytes(16380)),
    "change_cipher_specs": (b"", b"\x14\x03\x03\0\1\1"),
    "warnings": (b"", b"\x15\x03\x03\0\2\1\x5a"),
    "empty_records": (b"", b"\x16\x03\x03\0\0"),
    "hello_requests": (b"", b"\x16\x03\x03\0\4\0\0\0\0"),
    "one_octet_each": (b"", b"\x16\x03\x03\0\1\2"),
    "slowly": (_SERVER_HELLO + b"\x40\0", b"\2"),
}


def load() -> Any:
    """
    Return libssl, with what is called of it declared.
    """
    library = ctypes.CDLL("libssl.so.3")
    for name in ("TLS_server_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


SSL = load()


class Connection:
    """
    One client's connection.
    """

    def __init__(self, context: int, plain: socket.socket) -> None:
        self.certificate = "the first certificate"
        self.plain = plain
        self.tls = ctypes.c_void_p(SSL.SSL_new(ctypes.c_void_p(context)))
        SSL.SSL_set_fd(self.tls, plain.fileno())

    def shake_hands(self) -> bool:
        """
        Return whether that worked.
        """
        return SSL.SSL_accept(self.tls) == 1

    def read(self) -> bytes:
        """
        Return a query; b"" at the end.
        """
        buffer = ctypes.create_string_buffer(65537)
        count = SSL.SSL_read(self.tls, buffer, 65537)
        return buffer.raw[2:count] if count > 2 else b""

    def answer(self, query: bytes) -> None:
        """
        Tell the address 192.0.2.1, and who was asked.
        """
        end = 12
        while query[end]:
            end += 1 + query[end]
        print(f"query for {query[13 : 13 + query[12]].decode()} with {self.certificate}", flush=True)
        reply = query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + query[12 : end + 5]
        reply += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
        framed = struct.pack("!H", len(reply)) + reply
        SSL.SSL_write(self.tls, framed, len(framed))

    def renegotiate(self, certificate: str, key: str) -> None:
        """
        Shake hands again, with another certificate, and wait for its end.
        """
        SSL.SSL_use_certificate_file(self.tls, certificate.encode(), PEM)
        SSL.SSL_use_PrivateKey_file(self.tls, key.encode(), PEM)
        self.certificate = "the other certificate"
        SSL.SSL_renegotiate(self.tls)
        SSL.SSL_do_handshake(self.tls)
        print("asked to renegotiate", flush=True)

    def flood(self, mode: str) -> None:
        """
        Send one kind of message as fast as possible.
        """
        began, count, is_taken = time.monotonic(), 0, True
        while is_taken and time.monotonic() < began + SECONDS:
            if mode == "tickets":
                is_taken = SSL.SSL_new_session_ticket(self.tls) == 1
            else:
                kind = UPDATE_REQUESTED if mode == "key_updates_both_ways" else UPDATE_NOT_REQUESTED
                is_taken = SSL.SSL_key_update(self.tls, kind) == 1
            is_taken = is_taken and SSL.SSL_do_handshake(self.tls) == 1
            # OpenSSL does not tell of a connection that ends while it sends tickets.
            is_taken = is_taken and self.plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
            count += 1
        print(f"flood of {count} ended by {'nobody' if is_taken else 'the client'}", flush=True)


def flood_raw(plain: socket.socket, first: bytes, again: bytes, *, slowly: bool) -> None:
    """
    Send what is no handshake, without end.
    """
    began, sent, is_taken = time.monotonic(), 0, True
    plain.settimeout(SECONDS)
    piece = again if slowly else again * (65536 // len(again) + 1)
    try:
        plain.sendall(first)
        while sent < OCTETS and time.monotonic() < began + SECONDS:
            plain.sendall(piece)
            sent += len(piece)
            if slowly:
                time.sleep(0.05)
    except OSError:
        is_taken = False
    took = time.monotonic() - began
    print(f"flood of {sent} ended by {'nobody' if is_taken else 'the client'} after {took:.1f} s", flush=True)


def serve(mode: str, context: int, plain: socket.socket, other: list[str]) -> None:
    """
    Serve one client.
    """
    with plain:
        if mode in RAW:
            flood_raw(plain, *RAW[mode], slowly=mode == "slowly")
            return
        connection = Connection(context, plain)
        if not connection.shake_hands():
            return
        if mode != "renegotiates":
            connection.flood(mode)
            return
        while query := connection.read():
            connection.answer(query)
            if connection.certificate == "the first certificate":
                connection.renegotiate(*other)


def main(mode: str, certificate: str, key: str, *other: str) -> None:
    """
    Serve until killed.
    """
    context = SSL.SSL_CTX_new(ctypes.c_void_p(SSL.TLS_server_method()))
    SSL.SSL_CTX_use_certificate_chain_file(ctypes.c_void_p(context), certificate.encode())
    SSL.SSL_CTX_use_PrivateKey_file(ctypes.c_void_p(context), key.encode(), PEM)
    if mode == "renegotiates":
        SSL.SSL_CTX_ctrl(ctypes.c_void_p(context), SET_MAX_PROTO_VERSION, ctypes.c_long(TLS_1_2), None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"port {listening.getsockname()[1]}", flush=True)
        while True:
            plain, _ = listening.accept()
            threading.Thread(target=serve, args=(mode, context, plain, list(other)), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
