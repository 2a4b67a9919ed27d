"""
The cache in a file.
"""

import stat
from hashlib import blake2b
from typing import Any

import dns.message
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.policy.answers import AnswerCache
from dotproxy.policy.freshness import Limits
from dotproxy.snapshot import INTERVAL, Damaged, Snapshot, decoded, encoded
from dotproxy.wire.hop import Rebuilt
from dotproxy.wire.message import peek
from dotproxy.wire.question import key_of
from tests.config.test_schema import folder
from tests.policy.test_answers import fresh

HOP = Rebuilt()


def make_cache() -> AnswerCache:
    """
    An empty cache.
    """
    return AnswerCache(entries=2000, octets=10**7, limits=Limits(), stale_for=100.0)


def add(cache: AnswerCache, name: str, now: float, ttl: int = 60) -> bytes:
    """
    Have it keep an answer; return its key.
    """
    query = dns.message.make_query(name, "A", use_edns=0)
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", "192.0.2.1", "192.0.2.2"))
    reply.use_edns(0, options=[dns.edns.EDEOption(0, "of some interest")])
    wire = query.to_wire()
    seen = peek(wire)
    key = key_of(wire, seen)
    cache.add(key, HOP.read(wire, seen, reply.to_wire()), 1, now, 0)  # type: ignore[arg-type]
    return key


class SnapshotTests(SynchronousTestCase):
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

    def start(self, cache: AnswerCache, in_thread: Any = maybeDeferred) -> Snapshot:
        """
        A service, started.
        """
        snapshot = Snapshot(
            cache,
            self.path,
            clock=self.clock,
            elapsed=self.clock.seconds,
            date=lambda: self.date + self.clock.seconds(),
            in_thread=in_thread,
        )
        snapshot.startService()
        self.clock.pump([0] * 20)
        return snapshot

    def stop(self, snapshot: Snapshot) -> None:
        """
        Stop it.
        """
        self.successResultOf(snapshot.stopService())

    def test_it_survives(self) -> None:
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
        self.assertEqual((1200, ["1200 answers from " + str(self.path)]), (len(after), self.said))
        for key in keys:
            entry = fresh(after, key, 5.0)
            assert entry is not None
            self.assertEqual(before[key][2], entry[2])
            self.assertEqual((-35.0, before[key][1] - 1000 - 35), (entry[0], entry[1]))
        self.assertIsNone(fresh(after, keys[0], 25.0))

    def test_nobody_else_reads_it(self) -> None:
        """
        Its mode is 0600, and nothing is left beside it.
        """
        (self.path.parent / ".cache.new").write_bytes(b"left behind")
        self.stop(self.start(make_cache()))
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.assertEqual([self.path], list(self.path.parent.iterdir()))

    def test_what_is_damaged_is_set_aside(self) -> None:
        """
        With one line; the next one is written in its place.
        """
        cache = make_cache()
        key = add(cache, "www.test.", 1000.0)
        good = encoded(cache.entries(), 0)
        for bad in (
            b"",
            b"rubbish",
            good[:-1],
            good + b"x",
            good[:-1] + b"\0",
            b"dotproxy cache 2\n" + good[17:],
            good[:60],
        ):
            self.said.clear()
            self.path.write_bytes(bad)
            snapshot = self.start(make_cache())
            self.assertEqual(1, len(self.said), bad)
            self.assertIn("it is now cache.damaged", self.said[0])
            self.assertEqual(bad, (self.path.parent / "cache.damaged").read_bytes())
            self.stop(snapshot)
            self.assertTrue(self.path.exists())
        self.assertEqual([key], [kept for kept, _ in decoded(good, 0)])

    def test_a_mistake_of_ours(self) -> None:
        """
        What bears the right checksum and still makes no sense is set aside as well.
        """
        good = encoded([], 0)
        content = b"not a record"
        bad = good[:17] + blake2b(content, digest_size=32).digest() + content
        self.assertRaises(Damaged, list, decoded(bad, 0))
        self.path.write_bytes(bad)
        self.start(make_cache())
        self.assertIn("it is now cache.damaged", self.said[0])

    def test_ttls_that_are_not_there(self) -> None:
        """
        Would be a crash when the answer is given, and are none.
        """
        cache = make_cache()
        add(cache, "www.test.", 1000.0)
        ((key, (stored, expires, answer)),) = cache.entries()
        bad = encoded([(key, (stored, expires, answer._replace(ttls=(len(answer.body) - 3,))))], 0)
        self.assertRaises(Damaged, list, decoded(bad, 0))

    def test_there_is_none(self) -> None:
        """
        That is not worth a word.
        """
        self.start(make_cache())
        self.assertEqual([], self.said)

    def test_now_and_then(self) -> None:
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

    def test_it_cannot_be_written_or_read(self) -> None:
        """
        One line each; questions are answered all the same.
        """

        def refused(call: Any) -> Deferred[Any]:
            return fail(Failure(PermissionError(13, "Permission denied")))

        snapshot = self.start(make_cache(), refused)
        self.assertEqual([f"{self.path} cannot be read: Permission denied; the cache begins empty"], self.said)
        self.stop(snapshot)
        self.assertEqual(f"{self.path} cannot be written: Permission denied", self.said[1])

    def test_stopped_while_it_is_read(self) -> None:
        """
        What is there stays there.
        """
        cache = make_cache()
        add(cache, "www.test.", 1000.0)
        self.stop(self.start(cache))
        written = self.path.read_bytes()
        snapshot = self.start(make_cache(), lambda call: Deferred())
        self.stop(snapshot)
        self.assertEqual(written, self.path.read_bytes())
        self.assertEqual([], self.said)
