"""
A bound on how long a blocking conversation takes in all.

Decides nothing but when it ends.  A socket's own timeout counts from the last octet: a peer that sends one now and then
would be read for ever.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def deadline(connection: socket.socket, seconds: float) -> Iterator[None]:
    """
    Shut a connection down unless the block ends in time; whoever reads it then finds its end.
    """
    with connection.dup() as copy:  # whoever has the connection may close it meanwhile
        is_over = threading.Event()

        def watch() -> None:
            if not is_over.wait(seconds):
                with suppress(OSError):  # it has ended already
                    copy.shutdown(socket.SHUT_RDWR)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
