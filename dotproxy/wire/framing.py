"""
DNS over a stream: each message follows its length in two octets (RFC 1035 §4.2.2, RFC 7766 §8).

Decides where messages begin and end, however the stream was cut.  Takes time linear in the octets fed, and memory of
one message; for queries, of ``MAX_QUERY`` octets and those read at once.
"""

from __future__ import annotations

from typing import Final

#: Octets of a query.  One that is longer is answered with FORMERR, for which its first octets are enough.
MAX_QUERY: Final = 4096
_MAX_FRAME: Final = 2 + MAX_QUERY


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
        Whether no octet of the next message has come yet.
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


class QueryDeframer:
    """
    Turns pieces of a stream from a client into queries, a few at a time.

    A message longer than ``MAX_QUERY`` is given as its first ``MAX_QUERY + 1`` octets, once its last octet has come;
    the rest of it is not kept.  Pieces are kept until they are taken: do not feed while ``has_query``, which says that
    there is a whole message to take.
    """

    __slots__ = ("_at", "_data", "_head", "_skip", "has_query")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._head = b""  # of a message whose other octets, so many, are still to come
        self._skip = 0
        self.has_query = False

    @property
    def kept(self) -> int:
        """
        How many octets are kept.
        """
        return len(self._data) + len(self._head)

    def feed(self, data: bytes) -> None:
        """
        Add the next piece of the stream.
        """
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._data:
            data = self._data[self._at :] + data
            self._at = 0
        self._data = data
        self._look()

    def take(self, most: int) -> list[bytes]:
        """
        Return the next queries, at most so many, in order.
        """
        queries: list[bytes] = []
        if self._head and not self._skip and most > 0:
            queries.append(self._head)
            self._head = b""
            most -= 1
        data, at, size = self._data, self._at, len(self._data)
        for _ in range(most):
            if size - at < 2:
                break
            need = 2 + (data[at] << 8 | data[at + 1])
            if size - at < need:
                break
            queries.append(data[at + 2 : at + need] if need <= _MAX_FRAME else data[at + 2 : at + 1 + _MAX_FRAME])
            at += need
        self._at = at
        if at == size and not self._head:
            self._data = b""
            self._at = 0
            self.has_query = False
        else:
            self._look()
        return queries

    def _look(self) -> None:
        """
        See whether there is a whole message.  Of one that is too long and is not whole keep only the first octets.
        """
        if self._head:
            self.has_query = not self._skip
            return
        data, at = self._data, self._at
        have = len(data) - at
        need = 2 + (data[at] << 8 | data[at + 1]) if have >= 2 else 2
        self.has_query = need <= have
        if _MAX_FRAME < have < need:
            self._head = data[at + 2 : at + 1 + _MAX_FRAME]
            self._skip = need - have
            self._data = b""
            self._at = 0
