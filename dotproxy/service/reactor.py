"""
The reactor as the running service needs it.

Decides which of Twisted's reactor interfaces the service uses, so that what takes a reactor is typed.  Twisted's own
reactors and ``twisted.internet.testing``'s provide each of them; nothing declares this combination, so ``tap`` and the
library cast once.
"""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorInThreads,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)


class IServiceReactor(
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorInThreads,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
):
    """
    Timers, TCP and UNIX sockets, file descriptors, child processes, and calls from threads.
    """
