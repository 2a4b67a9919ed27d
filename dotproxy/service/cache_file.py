"""
The cache file (``cache_file``): the cache survives a restart.

Decides when the file is written and read, and what is logged about one that is not usable: then the cache starts empty.
Its form, and whether it is trusted, is ``cache_file_format``'s.  Files are read and written in a thread; records are
restored in slices, while queries are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
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
from dotproxy.telemetry.plural import pluralized

#: Seconds between two writes while dotproxy runs.
INTERVAL = 900.0

#: Records restored in one turn of the reactor.
_SLICE = 500

log = Logger("dotproxy")

#: Runs a function in a thread, as ``twisted.internet.threads.deferToThread``; its results are untyped (``Any``).
InThread = Callable[..., Deferred[Any]]


class CacheFile(Service):
    """
    Loads and saves the cache.

    Owns: the file, and the file with its key.  A file of more than ``limit`` octets is not read.
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
        self._last_warning = ""

    def startService(self) -> None:
        """
        Start to read the file, and write it every ``INTERVAL`` seconds.
        """
        super().startService()
        self._timer = self._clock.callLater(INTERVAL, self._save_regularly)
        self._begin(self._load())

    async def save_last(self) -> None:
        """
        Write the file, unless it is still being read.
        """
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._busy is not None:
            self._busy.cancel()
        else:
            await self._save()

    def stopService(self) -> Deferred[None]:
        """
        Write the file; return a Deferred that fires when that is done.
        """
        super().stopService()
        return Deferred.fromCoroutine(self.save_last())

    def _begin(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        self._busy = busy = Deferred.fromCoroutine(work)

        def finish(result: object) -> None:
            self._busy = None

        busy.addErrback(lambda failure: failure.trap(CancelledError))
        busy.addBoth(finish)
        if busy.called:
            self._busy = None

    def _save_regularly(self) -> None:
        self._timer = self._clock.callLater(INTERVAL, self._save_regularly)
        if self._busy is None:
            self._begin(self._save())

    def _shift(self) -> float:
        """
        Return what turns a time of the cache (boottime) into seconds since 1970.
        """
        return self._wall_time() - self._boottime()

    async def _load(self) -> None:
        try:
            content = await self._in_thread(lambda: load_file(self._path, self._limit))
            records = Records(content, self._shift())
            await self._cooperator.cooperate(self._restore(iter(records))).whenDone()
        except FileNotFoundError:
            return
        except Damaged as error:
            aside = self._path.with_name(self._path.name + ".damaged")
            log.warn("{path}: {error}; it is now {aside}", path=str(self._path), error=str(error), aside=aside.name)
            with suppress(OSError):
                self._path.replace(aside)
            return
        except (NotPrivate, Outdated, OSError) as error:
            self._warn("{path} is not read: {error}; the cache begins empty", error)
            return
        log.info("{responses} from {path}", responses=pluralized(len(self._cache), "response"), path=str(self._path))
        if records.invalid:
            log.warn("{path}: {count} invalid records left out", path=str(self._path), count=records.invalid)

    def _warn(self, text: str, error: Exception) -> None:
        """
        Log what is wrong with the file, unless the last warning was the same.
        """
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if self._last_warning != text + reason:
            self._last_warning = text + reason
            log.warn(text, path=str(self._path), error=reason)

    def _restore(self, entries: Iterator[tuple[bytes, CacheEntry]]) -> Iterator[None]:
        while batch := list(islice(entries, _SLICE)):
            self._cache.restore(batch, self._boottime())
            yield

    async def _save(self) -> None:
        entries = list(self._cache.entries())
        shift = self._shift()
        try:
            await self._in_thread(lambda: save_file(self._path, entries, shift))
        except (NotPrivate, OSError) as error:
            self._warn("{path} is not written: {error}", error)
        else:
            self._last_warning = ""
