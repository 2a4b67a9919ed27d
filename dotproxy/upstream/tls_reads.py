"""
A TLS connection of which one call reads all that has come.

Decides nothing: what is read, and how it ends, is what ``SSL.Connection`` has, record by record, unless something
else left a reason to end in ``refusal``.  Most upstreams put each answer into a record of its own; read one by one,
they take as long as all else that is done with them.
"""

from __future__ import annotations

from threading import local
from typing import Any

from OpenSSL import SSL

try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _library

    #: Octets read in one call at most; twice what Twisted takes off a socket at once.
    _SIZE = 1 << 17
    # Memory that was never written to costs nothing.
    _allocate: Any = _ffi.new_allocator(should_clear_after_alloc=False)
    _WANT_READ = _library.SSL_ERROR_WANT_READ
    HAS_LIBRARY = all(hasattr(SSL.Connection, name) for name in ("_raise_ssl_error", "bio_write"))
except (ImportError, AttributeError):  # what is not promised may go
    HAS_LIBRARY = False


#: Of each thread, ``memory`` that is read into, and a view of it.
_of_thread = local()


class WholeReads(SSL.Connection):
    """
    The same, but that ``recv`` returns what is in all records there are.

    The next call reports what follows them: an error, or the end.  With a ``refusal`` it is an
    error with that reason.
    """

    refusal = ""
    _then: list[SSL.Error] = []  # noqa: RUF012 (never added to; each connection gets its own)

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """
        Return everything there is, which may be more than ``bufsiz`` octets.
        """
        if self._then:
            raise self._then.pop()  # no name for it here: an exception and its frame would keep each other
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(super().recv(bufsiz))
        except SSL.Error as error:
            if not pieces:
                if self.refusal:
                    raise _refused(self.refusal) from None
                raise
            self._then = [_refused(self.refusal) if self.refusal else error.with_traceback(None)]
        return b"".join(pieces)


class DirectReads(WholeReads):
    """
    The same, without pyOpenSSL's buffer and exception for each record.

    The buffer is that of the thread in which the connection was made, and in which alone it is read: OpenSSL reads
    without the interpreter's lock, and there may be reactors in several threads.  One for each connection would stay
    with it until the garbage is collected.
    """

    def __init__(self, context: SSL.Context, socket: None = None) -> None:
        super().__init__(context, socket)
        if not hasattr(_of_thread, "memory"):
            buffer = _allocate("char[]", _SIZE)
            _of_thread.memory = buffer, _ffi.buffer(buffer)
        self._memory: tuple[Any, Any] = _of_thread.memory

    def recv(self, bufsiz: int, flags: int | None = None) -> Any:
        """
        Return everything there is.
        """
        if self._then:
            raise self._then.pop()
        session: Any = self._ssl
        buffer, view = self._memory
        filled = 0
        while (got := _library.SSL_read(session, buffer + filled, _SIZE - filled)) > 0:
            filled += got
            if filled == _SIZE:
                return view[:]
        if self.refusal:
            if filled:
                return view[:filled]
            raise _refused(self.refusal)
        if not filled:
            self._raise_ssl_error(session, got)
        if _library.SSL_get_error(session, got) == _WANT_READ:
            self._then = [SSL.WantReadError()]
        else:
            try:
                self._raise_ssl_error(session, got)
            except SSL.Error as error:
                self._then = [error.with_traceback(None)]
        return view[:filled]


def _refused(reason: str) -> SSL.Error:
    """
    Return an error as OpenSSL's own are: a list of library, function, reason.
    """
    return SSL.Error([("dotproxy", "", reason)])


def new_connection(context: SSL.Context) -> SSL.Connection:
    """
    Return a connection that reads all at once.
    """
    return (DirectReads if HAS_LIBRARY else WholeReads)(context, None)
