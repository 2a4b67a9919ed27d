"""
The cache, written to a file, so that it survives a restart.

Decides the form of the file, and when it is written and read.  The file is replaced as a whole or not at all, is
nobody else's to read, and bears a version and a checksum: one that is not what was written is set aside, and the cache
begins empty.  What takes time happens in a thread; what was read is taken in bit by bit, while questions are answered.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Cooperator
from twisted.logger import Logger

from dotproxy.policy.answers import AnswerCache, Entry
from dotproxy.wire.answer import answer_of

#: How often the file is written while dotproxy runs, in seconds.
INTERVAL = 900.0

#: So many answers are taken in at once.
_SLICE = 500

_MAGIC = b"dotproxy cache 1\n"
_DIGEST_SIZE = 32

#: When stored and when it expires, in seconds since 1970; the header; ARCOUNT; upper rcode bits; where the question
#: ends; how long key, options and body are, and how many TTLs there are.
_RECORD = struct.Struct("!dd8sHBHHHHH")

log = Logger("dotproxy")

#: Runs a function in a thread; as ``twisted.internet.threads.deferToThread``.
InThread = Callable[..., Deferred[Any]]


class Damaged(Exception):
    """
    A file is not what was written; why.
    """


def encoded(entries: Iterable[tuple[bytes, Entry]], shift: float) -> bytes:
    """
    Return what a file holds; ``shift`` is what has to be added to a time to have it in seconds since 1970.
    """
    parts: list[bytes] = []
    for key, (stored, expires, answer) in entries:
        head, additionals, body, _, extended, options, end, _ = answer
        ttls = answer.offsets()
        sizes = (len(key), len(options), len(body), len(ttls))
        parts.append(_RECORD.pack(stored + shift, expires + shift, head, additionals, extended, end, *sizes))
        parts += (key, options, body, struct.Struct(f"!{len(ttls)}H").pack(*ttls))
    content = b"".join(parts)
    return _MAGIC + blake2b(content, digest_size=_DIGEST_SIZE).digest() + content


def decoded(octets: bytes, shift: float) -> Iterator[tuple[bytes, Entry]]:
    """
    Yield what a file holds; ``shift`` as for ``encoded``.

    :raises Damaged: before anything is yielded, if it is not what was written.
    """
    if not octets.startswith(_MAGIC):
        raise Damaged("it is of another version, or no cache at all")
    start = len(_MAGIC) + _DIGEST_SIZE
    content = octets[start:]
    if blake2b(content, digest_size=_DIGEST_SIZE).digest() != octets[len(_MAGIC) : start]:
        raise Damaged("its checksum is wrong")
    return _records(content, shift)


def _records(content: bytes, shift: float) -> Iterator[tuple[bytes, Entry]]:
    offset = 0
    try:
        while offset < len(content):
            stored, expires, head, additionals, extended, end, *sizes = _RECORD.unpack_from(content, offset)
            offset += _RECORD.size
            pieces: list[bytes] = []
            for size in (*sizes[:3], 2 * sizes[3]):
                pieces.append(content[offset : offset + size])
                offset += size
            key, options, body, places = pieces
            ttls = struct.Struct(f"!{sizes[3]}H").unpack(places)
            if ttls and max(ttls) + 4 > len(body):
                raise Damaged("a TTL stands outside its answer")
            answer = answer_of(head, additionals, body, ttls, extended, options, end)
            yield key, (stored - shift, expires - shift, answer)
    except struct.error as error:  # the checksum was right, so that is a mistake of ours
        raise Damaged(str(error)) from None


def write(path: Path, octets: bytes) -> None:
    """
    Put a file in place of what is there, whole or not at all, readable by nobody else.
    """
    beside = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        beside.unlink()
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


class Snapshot(Service):
    """
    Owns: the file.
    """

    def __init__(
        self,
        cache: AnswerCache,
        path: Path,
        *,
        clock: IReactorTime,
        elapsed: Callable[[], float],
        date: Callable[[], float],
        in_thread: InThread,
    ) -> None:
        self._cache = cache
        self._path = path
        self._clock = clock
        self._elapsed = elapsed
        self._date = date
        self._in_thread = in_thread
        self._cooperator = Cooperator(scheduler=lambda call: clock.callLater(0, call))
        self._busy: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None

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
        return self._date() - self._elapsed()

    async def _load(self) -> None:
        try:
            octets = await self._in_thread(self._path.read_bytes)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warn(
                "{path} cannot be read: {error}; the cache begins empty", path=str(self._path), error=error.strerror
            )
            return
        try:
            entries = decoded(octets, self._shift())
            await self._cooperator.cooperate(self._taking_in(entries)).whenDone()
        except Damaged as error:
            aside = self._path.with_name(self._path.name + ".damaged")
            log.warn("{path}: {error}; it is now {aside}", path=str(self._path), error=str(error), aside=aside.name)
            with suppress(OSError):
                self._path.replace(aside)
            return
        count = len(self._cache)
        what = "answer" if count == 1 else "answers"
        log.info("{count} {what} from {path}", count=count, what=what, path=str(self._path))

    def _taking_in(self, entries: Iterator[tuple[bytes, Entry]]) -> Iterator[None]:
        while piece := list(islice(entries, _SLICE)):
            self._cache.restore(piece, self._elapsed())
            yield

    async def _save(self) -> None:
        entries = list(self._cache.entries())
        shift = self._shift()
        try:
            await self._in_thread(lambda: write(self._path, encoded(entries, shift)))
        except OSError as error:
            log.warn("{path} cannot be written: {error}", path=str(self._path), error=error.strerror)
