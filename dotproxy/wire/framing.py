"""
DNS over a stream: each message after its length in two octets (RFC 1035 §4.2.2, RFC 7766 §8).

Decides where one message ends and the next begins, however the stream was cut.  Costs time linear in
what it is fed, and memory bounded by one message.
"""

from __future__ import annotations


def frame(message: bytes) -> bytes:
    """
    Return ``message`` (at most 65,535 octets) with its length before it.
    """
    return len(message).to_bytes(2, "big") + message


class Deframer:
    """
    Turns pieces of a stream into messages.
    """

    __slots__ = ("_have", "_need", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 2

    @property
    def is_between_messages(self) -> bool:
        """
        Whether nothing of a next message has come yet.
        """
        return not self._have

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take the next piece of the stream; return the messages it completed, in order.
        """
        self._have += len(data)
        if self._have < self._need:
            self._pieces.append(data)
            return []
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        messages: list[bytes] = []
        start, size = 0, len(data)
        need = 2
        while size - start >= 2:
            need = 2 + (data[start] << 8 | data[start + 1])
            if size - start < need:
                break
            messages.append(data[start + 2 : start + need])
            start += need
            need = 2
        self._need = need
        self._have = size - start
        if self._have:
            self._pieces.append(data[start:])
        return messages
