"""
What the cache says it takes, against what a process takes that fills one.
"""

import json
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests import rounds

TOP = Path(__file__).parent.parent.parent

#: Fills a cache for each of its arguments, in a process of its own; prints what the cache counts, and by how much the
#: process has grown.
_FILL = """
import ctypes, gc, json, os, sys
from dotproxy.cache.responses import CacheSettings, ResponseCache
from dotproxy.cache.ttl import Limits
from dotproxy.testing.client import make_query
from dotproxy.wire.rewrite import EdnsRewriter
from dotproxy.wire.message import parse_query
from dotproxy.cache.key import key_of

def resident():
    gc.collect()
    # Holes that the allocator left between what is kept are not what is kept.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda room: None)(0)
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def fill(pattern, count, records, size, is_used):
    rewriter = EdnsRewriter()
    cache = ResponseCache(CacheSettings(), entries=10**6, octets=10**12)

    def add(number):
        query = make_query(pattern % number, 1)
        info = parse_query(query)
        record = bytes.fromhex("c00c 0001 0001 00000e10") + size.to_bytes(2, "big") + bytes(size)
        head = query[:2] + bytes.fromhex("8180 0001") + records.to_bytes(2, "big") + bytes(4)
        reply = head + query[12 : info.question_end] + record * records
        cache.add(key_of(query, info), rewriter.parse_response(query, info, reply), 1, 0.0, 0)
        if is_used:
            key = key_of(query, info)
            cache.note_hit(key, cache.peek(key), 0.0)

    for number in range(100):
        add(10**7 + number)
    before, counted = resident(), cache.octets
    for number in range(count):
        add(number)
    print(cache.octets - counted, resident() - before, flush=True)

for arguments in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        fill(*json.loads(arguments))
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        sys.exit("a process failed")
"""


class MemoryTests(SynchronousTestCase):
    """
    In processes of their own.
    """

    def check(self, *answers: tuple[str, int, int, int]) -> None:
        """
        What is counted is within 15 % of what is taken, whether or not the answers were asked for since.
        """
        if not Path("/proc/self/statm").exists():
            raise SkipTest("this system does not say how much memory a process has")
        arguments = [
            json.dumps([pattern, rounds(count, quick=count // 3), records, size, is_used])
            for pattern, count, records, size in answers
            for is_used in (0, 1)
        ]
        line = [sys.executable, "-c", _FILL, *arguments]
        told = subprocess.run(line, cwd=TOP, capture_output=True, text=True, check=True).stdout.splitlines()
        self.assertEqual(len(arguments), len(told))
        for case, numbers in zip(arguments, told, strict=True):
            counted, real = map(int, numbers.split())
            self.assertTrue(0.85 <= counted / real <= 1.15, f"{case}: counted {counted}, real {real}")

    def test_memory_of_small_responses_is_within_its_estimate(self) -> None:
        """
        One or a few addresses.
        """
        self.check(("www%d.example.org.", 30000, 1, 4), ("www%d.example.org.", 30000, 4, 4))

    def test_memory_of_responses_of_many_records_is_within_its_estimate(self) -> None:
        """
        Very many records of almost no octets, and some.
        """
        self.check(
            ("m%d.example.org.", 60, 5000, 0), ("m%d.example.org.", 3000, 17, 16), ("m%d.example.org.", 3000, 16, 100)
        )

    def test_memory_of_long_keys_is_within_its_estimate(self) -> None:
        """
        Names of 200 octets.
        """
        self.check((f"{'a' * 40}%d.{'b' * 60}.{'c' * 60}.example.org.", 20000, 1, 4))
