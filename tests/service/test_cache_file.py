"""
The cache in a file.
"""

import os
import stat
from pathlib import Path
from typing import Any

import dns.message
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.key import key_of
from dotproxy.cache.responses import CacheSettings, ResponseCache
from dotproxy.service.cache_file import INTERVAL, CacheFile
from dotproxy.service.cache_file_format import encode, key_path, load_file, save_file
from dotproxy.wire.message import parse_query
from dotproxy.wire.rewrite import EdnsRewriter
from tests.cache.test_responses import fresh
from tests.config.test_schema import folder

REWRITER = EdnsRewriter()


def make_cache() -> ResponseCache:
    """
    An empty cache.
    """
    return ResponseCache(CacheSettings(stale_for=100.0), entries=2000, octets=10**7)


def add(cache: ResponseCache, name: str, now: float, ttl: int = 60) -> bytes:
    """
    Have it keep an answer; return its key.
    """
    query = dns.message.make_query(name, "A", use_edns=0)
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", "192.0.2.1", "192.0.2.2"))
    reply.use_edns(0, options=[dns.edns.EDEOption(0, "of some interest")])
    wire = query.to_wire()
    seen = parse_query(wire)
    key = key_of(wire, seen)
    cache.add(key, REWRITER.parse_response(wire, seen, reply.to_wire()), 1, now, 0)  # type: ignore[arg-type]
    return key


class CacheFileTests(SynchronousTestCase):
    """
    Written, and read again.
    """

    def setUp(self) -> None:
        """
        A folder, clocks, and an ear for what is logged.
        """
        self.path = folder(self) / "cache"
        self.clock = Clock()
        self.clock.advance(1000)
        self.date = 10**9
        self.said: list[str] = []

        def hear(event: dict[str, Any]) -> None:
            if event.get("log_namespace") == "dotproxy":
                self.said.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    def start(self, cache: ResponseCache, in_thread: Any = maybeDeferred) -> CacheFile:
        """
        A service, started.
        """
        cache_file = CacheFile(
            cache,
            self.path,
            limit=10**7,
            clock=self.clock,
            boottime=self.clock.seconds,
            wall_time=lambda: self.date + self.clock.seconds(),
            in_thread=in_thread,
        )
        cache_file.startService()
        self.clock.pump([0] * 20)
        return cache_file

    def stop(self, cache_file: CacheFile) -> None:
        """
        Stop it.
        """
        self.successResultOf(cache_file.stopService())

    def test_entries_survive_a_restart_with_their_age(self) -> None:
        """
        What was kept is kept after a restart, and as old as it is: the time between counts.
        """
        cache = make_cache()
        keys = [add(cache, f"n{number}.test.", 1000.0, 60 + number) for number in range(1200)]
        self.stop(self.start(cache))
        before = dict(cache.entries())
        self.clock = Clock()  # another life, in which the clock began anew, and 40 seconds later
        self.clock.advance(5)
        self.date = 10**9 + 1000 + 40 - 5
        after = make_cache()
        self.start(after)
        self.assertEqual((1200, ["1200 responses from " + str(self.path)]), (len(after), self.said))
        for key in keys:
            entry = fresh(after, key, 5.0)
            assert entry is not None
            self.assertEqual(before[key].response, entry.response)
            self.assertEqual((-35.0, before[key].expires_at - 1000 - 35), (entry.stored_at, entry.expires_at))
        self.assertIsNone(fresh(after, keys[0], 25.0))

    def test_file_and_key_have_mode_0600(self) -> None:
        """
        Its mode and its key's are 0600 whatever the umask, and nothing else is left beside it.
        """
        (self.path.parent / ".cache.new").write_bytes(b"left behind")
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.stop(self.start(make_cache()))
        files = {self.path, key_path(self.path)}
        self.assertEqual(files, set(self.path.parent.iterdir()))
        self.assertEqual({0o600}, {stat.S_IMODE(path.stat().st_mode) for path in files})

    def test_damaged_file_is_set_aside(self) -> None:
        """
        With one line; the next one is written in its place.
        """
        cache = make_cache()
        add(cache, "www.test.", 1000.0)
        save_file(self.path, cache.entries(), 0)
        good = self.path.read_bytes()
        for bad in (
            b"",
            b"rubbish",
            good[:-1],
            good + b"x",
            good[:-1] + b"\0",
            b"dotproxy cache 3\n" + good[17:],
            good[:60],
            encode(cache.entries(), 0, b"another key"),
        ):
            self.said.clear()
            self.path.write_bytes(bad)
            cache_file = self.start(make_cache())
            self.assertEqual(1, len(self.said), bad)
            self.assertIn("it is now cache.damaged", self.said[0])
            self.assertEqual(bad, (self.path.parent / "cache.damaged").read_bytes())
            self.stop(cache_file)
            self.assertTrue(self.path.exists())

    def test_invalid_records_are_left_out(self) -> None:
        """
        The others are taken in, and it is told how many were not.
        """
        cache = make_cache()
        key = add(cache, "www.test.", 1000.0)
        ((_, (stored, expires, answer)),) = cache.entries()
        bad = answer._replace(ttl_offsets=(len(answer.body) - 3,))
        entries = [(key, (stored, expires, bad)), (key, (stored, expires, answer))]
        save_file(self.path, entries, self.date)
        after = make_cache()
        self.start(after)
        self.assertEqual(
            [f"1 response from {self.path}", f"{self.path}: 1 invalid records left out"],
            self.said,
        )
        self.assertEqual([key], [kept for kept, _ in after.entries()])

    def test_untrusted_file_is_not_read(self) -> None:
        """
        It is not read, one line says why, the cache begins empty; the next one is written in its place.
        """

        def link(path: Path) -> None:
            path.rename(path.with_name("elsewhere"))
            path.symlink_to(path.with_name("elsewhere"))

        def pipe(path: Path) -> None:
            path.unlink()
            os.mkfifo(path)

        def old(path: Path) -> None:
            path.write_bytes(b"dotproxy cache 1\n" + bytes(32))

        def big(path: Path) -> None:
            os.truncate(path, 1 << 40)

        cases = (
            (lambda path: path.chmod(0o620), "others may write it (mode 0620)"),
            (lambda path: path.chmod(0o602), "others may write it (mode 0602)"),
            (link, "it is a symbolic link"),
            (pipe, "it is not a regular file"),
            (old, "it was written by an older version"),
            (big, f"it has {1 << 40} octets, and at most {10**7 + 49} are read"),
            (lambda path: path.parent.chmod(0o777), "everybody may replace files in "),
            (lambda path: key_path(path).unlink(), "its key, cache.key, is not there"),
            (lambda path: key_path(path).chmod(0o640), "its key, cache.key: others may read it (mode 0640)"),
            (lambda path: key_path(path).write_bytes(b"x"), "its key, cache.key, has 1 octets and not 32"),
            (
                lambda path: key_path(path).write_bytes(bytes(33)),
                "its key, cache.key: it has 33 octets, and at most 32",
            ),
        )
        for change, reason in cases:
            self.path = folder(self) / "cache"
            cache = make_cache()
            add(cache, "www.test.", 1000.0)
            save_file(self.path, cache.entries(), self.date)
            change(self.path)
            self.said.clear()
            after = make_cache()
            cache_file = self.start(after)
            self.assertEqual((0, 1), (len(after), len(self.said)), reason)
            self.assertIn("; the cache begins empty", self.said[0])
            self.assertIn(f"{self.path} is not read: {reason}", self.said[0])
            self.path.parent.chmod(0o700)
            self.stop(cache_file)
            self.assertEqual(b"", load_file(self.path, 10**7))

    def test_missing_file_is_not_logged(self) -> None:
        """
        That is not worth a word.
        """
        self.start(make_cache())
        self.assertEqual([], self.said)

    def test_file_is_written_every_15_minutes(self) -> None:
        """
        It is written every quarter of an hour.
        """
        cache = make_cache()
        self.start(cache)
        self.assertFalse(self.path.exists())
        add(cache, "www.test.", self.clock.seconds(), 86400)
        for _ in range(2):
            self.clock.advance(INTERVAL)
            self.assertTrue(self.path.exists())
            self.path.unlink()

    def test_io_errors_are_logged_once_and_queries_are_answered(self) -> None:
        """
        One line each; questions are answered all the same.
        """

        def refused(call: Any) -> Deferred[Any]:
            return fail(Failure(PermissionError(13, "Permission denied")))

        cache_file = self.start(make_cache(), refused)
        self.assertEqual([f"{self.path} is not read: Permission denied; the cache begins empty"], self.said)
        self.stop(cache_file)
        self.assertEqual(f"{self.path} is not written: Permission denied", self.said[1])

    def test_stop_during_the_read_keeps_the_file(self) -> None:
        """
        What is there stays there.
        """
        cache = make_cache()
        add(cache, "www.test.", 1000.0)
        self.stop(self.start(cache))
        written = self.path.read_bytes()
        cache_file = self.start(make_cache(), lambda call: Deferred())
        self.stop(cache_file)
        self.assertEqual(written, self.path.read_bytes())
        self.assertEqual([], self.said)
