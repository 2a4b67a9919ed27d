"""
The cache, written to a file, so that it survives a restart.

Decides when the file is written and read, and what is said of one that cannot be used: then the cache begins empty.
Its form, and whether it is believed, is ``cache_file_format``'s.  What takes time happens in a thread; what was read is
taken in bit by bit, while queries are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Cooperator
from twisted.logger import Logger

from dotproxy.cache.responses import CacheEntry, ResponseCache
from dotproxy.service.cache_file_format import Damaged, Outdated, Records, load_file, save_file
from dotproxy.service.private_files import NotPrivate

#: How often the file is written while dotproxy runs, in seconds.
INTERVAL = 900.0

#: So many answers are taken in at once.
_SLICE = 500

log = Logger("dotproxy")

#: Runs a function in a thread; as ``twisted.internet.threads.deferToThread``.
InThread = Callable[..., Deferred[Any]]


class CacheFile(Service):
    """
    Owns: the file, and its key beside it.  A file with more than ``limit`` octets is not read.
    """

    def __init__(
        self,
        cache: ResponseCache,
        path: Path,
        *,
        limit: int,
        clock: IReactorTime,
        boottime: Callable[[], float],
        wall_time: Callable[[], float],
        in_thread: InThread,
    ) -> None:
        self._cache = cache
        self._path = path
        self._limit = limit
        self._clock = clock
        self._boottime = boottime
        self._wall_time = wall_time
        self._in_thread = in_thread
        self._cooperator = Cooperator(scheduler=lambda call: clock.callLater(0, call))
        self._busy: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._told = ""

    def startService(self) -> None:
        """
        Read the file, and write it now and then.
        """
        super().startService()
        self._timer = self._clock.callLater(INTERVAL, self._write_now_and_then)
        self._begin(self._load())

    async def stopped(self) -> None:
        """
        Write the file for the last time, unless it is still being read.
        """
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._busy is not None:
            self._busy.cancel()
        else:
            await self._save()

    def stopService(self) -> Deferred[None]:
        """
        Write the file for the last time.
        """
        super().stopService()
        return Deferred.fromCoroutine(self.stopped())

    def _begin(self, work: Any) -> None:
        self._busy = busy = Deferred.fromCoroutine(work)

        def over(result: object) -> None:
            self._busy = None

        busy.addErrback(lambda failure: failure.trap(CancelledError))
        busy.addBoth(over)
        if busy.called:
            self._busy = None

    def _write_now_and_then(self) -> None:
        self._timer = self._clock.callLater(INTERVAL, self._write_now_and_then)
        if self._busy is None:
            self._begin(self._save())

    def _shift(self) -> float:
        return self._wall_time() - self._boottime()

    async def _load(self) -> None:
        try:
            content = await self._in_thread(lambda: load_file(self._path, self._limit))
            records = Records(content, self._shift())
            await self._cooperator.cooperate(self._taking_in(iter(records))).whenDone()
        except FileNotFoundError:
            return
        except Damaged as error:
            aside = self._path.with_name(self._path.name + ".damaged")
            log.warn("{path}: {error}; it is now {aside}", path=str(self._path), error=str(error), aside=aside.name)
            with suppress(OSError):
                self._path.replace(aside)
            return
        except (NotPrivate, Outdated, OSError) as error:
            self._tell("{path} is not read: {error}; the cache begins empty", error)
            return
        count = len(self._cache)
        what = "answer" if count == 1 else "answers"
        log.info("{count} {what} from {path}", count=count, what=what, path=str(self._path))
        if records.invalid:
            log.warn("{path}: {count} invalid records left out", path=str(self._path), count=records.invalid)

    def _tell(self, text: str, error: Exception) -> None:
        """
        Say what is wrong with the file, unless that was said last.
        """
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if self._told != text + reason:
            self._told = text + reason
            log.warn(text, path=str(self._path), error=reason)

    def _taking_in(self, entries: Iterator[tuple[bytes, CacheEntry]]) -> Iterator[None]:
        while piece := list(islice(entries, _SLICE)):
            self._cache.restore(piece, self._boottime())
            yield

    async def _save(self) -> None:
        entries = list(self._cache.entries())
        shift = self._shift()
        try:
            await self._in_thread(lambda: save_file(self._path, entries, shift))
        except (NotPrivate, OSError) as error:
            self._tell("{path} is not written: {error}", error)
        else:
            self._told = ""
