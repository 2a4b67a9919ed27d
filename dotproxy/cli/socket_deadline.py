"""
A time limit for a whole exchange over a blocking socket.

Decides when the exchange is cut off.  A socket's own timeout restarts with each octet, so a peer that sends one now and
then would be read without limit.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def deadline(connection: socket.socket, seconds: float) -> Iterator[None]:
    """
    Shut a connection down, so that reads end, unless the block ends within ``seconds``.
    """
    with connection.dup() as copy:  # the block may close the connection itself
        is_over = threading.Event()

        def watch() -> None:
            if not is_over.wait(seconds):
                with suppress(OSError):  # it is closed already
                    copy.shutdown(socket.SHUT_RDWR)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
