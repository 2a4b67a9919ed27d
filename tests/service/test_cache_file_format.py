"""
The cache file: what of it is believed.
"""

import math
from typing import Any

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dotproxy.cache.responses import CacheEntry
from dotproxy.service.cache_file_format import (
    HEAD_SIZE,
    MAX_RECORD,
    Damaged,
    Outdated,
    Records,
    authenticate,
    check_version,
    encode,
    key_path,
    load_file,
    read_key,
    save_file,
)
from dotproxy.service.private_files import NotPrivate
from dotproxy.wire.message import HEADER_SIZE, question_of
from dotproxy.wire.parsed_response import ParsedResponse
from tests import rounds
from tests.config.test_schema import folder
from tests.service.test_cache_file import add, make_cache

KEY = bytes(range(32))


def small() -> list[tuple[bytes, CacheEntry]]:
    """
    Two answers, as a cache has them.
    """
    cache = make_cache()
    add(cache, "www.test.", 1000.0)
    add(cache, "mail.test.", 1000.0)
    return list(cache.entries())


def readable(entry: tuple[bytes, CacheEntry]) -> dns.message.Message:
    """
    What a client gets of an entry; fails unless an independent library can read it.
    """
    key, (_, _, answer) = entry
    question = key[: answer.question_end - HEADER_SIZE]
    head, _, _, ttls, _, _, _, _ = answer
    message = b"\0\0" + head + answer.additional_count.to_bytes(2, "big") + question + answer.aged_body(7)
    assert question_of(message) == answer.question_end
    assert len(ttls) == len(list(answer.records()))
    return dns.message.from_wire(message, ignore_trailing=False, one_rr_per_rrset=True)


def records_of(octets: bytes) -> list[tuple[bytes, CacheEntry]]:
    """
    What is believed of octets, whatever code they bear.
    """
    return list(Records(octets[HEAD_SIZE:], 0))


class CodeTests(SynchronousTestCase):
    """
    Written by whoever has the key, or not.
    """

    def setUp(self) -> None:
        """
        A small file.
        """
        self.entries = small()
        self.good = encode(self.entries, 0, KEY)

    def test_file_is_read_with_its_key_only(self) -> None:
        """
        With its key, and no other.
        """
        self.assertEqual(self.entries, list(Records(authenticate(self.good, KEY), 0)))
        self.assertRaises(Damaged, authenticate, self.good, bytes(32))

    def test_file_with_any_changed_bit_is_rejected(self) -> None:
        """
        In each of its bits: nothing of it is believed.
        """
        for at in range(len(self.good)):
            for bit in range(8):
                bad = bytearray(self.good)
                bad[at] ^= 1 << bit
                self.assertRaises((Damaged, Outdated), authenticate, bytes(bad), KEY)

    def test_file_cut_at_any_length_is_rejected(self) -> None:
        """
        Nor of a part.
        """
        for size in range(len(self.good)):
            self.assertRaises(Damaged, authenticate, self.good[:size], KEY)
        self.assertRaises(Damaged, authenticate, self.good + b"\0", KEY)

    def test_older_version_is_recognised(self) -> None:
        """
        An older one is told apart from rubbish.
        """
        self.assertRaises(Outdated, check_version, b"dotproxy cache 1\n" + self.good[17:])
        self.assertRaises(Damaged, check_version, b"dotproxy cache 9\n" + self.good[17:])

    def test_file_without_its_key_is_rejected(self) -> None:
        """
        The key is made at the first writing, and stays; a cache without its key, or with another's, is not believed.
        """
        here, there = folder(self) / "cache", folder(self) / "cache"
        save_file(here, self.entries, 0)
        key = key_path(here).read_bytes()
        save_file(here, self.entries, 0)
        self.assertEqual(key, key_path(here).read_bytes())
        self.assertEqual(self.entries, list(Records(load_file(here, 10_000), 0)))
        there.write_bytes(here.read_bytes())
        there.chmod(0o600)
        self.assertRaises(NotPrivate, load_file, there, 10_000)
        save_file(there, [], 0)
        self.assertNotEqual(key, read_key(there))
        there.write_bytes(here.read_bytes())
        self.assertRaises(Damaged, load_file, there, 10_000)
        self.assertRaises(NotPrivate, load_file, here, 100)

    def test_readable_key_is_replaced(self) -> None:
        """
        Is replaced.
        """
        path = folder(self) / "cache"
        save_file(path, self.entries, 0)
        key = read_key(path)
        key_path(path).chmod(0o644)
        self.assertRaises(NotPrivate, load_file, path, 10_000)
        save_file(path, self.entries, 0)
        self.assertNotEqual(key, read_key(path))


class RecordTests(SynchronousTestCase):
    """
    Each record, by itself: as if whoever wrote the file had the key.
    """

    def setUp(self) -> None:
        """
        A small file, and its first record.
        """
        self.entries = small()
        self.good = encode(self.entries, 0, KEY)
        self.key, (self.stored, self.expires, self.answer) = self.entries[0]

    def kept(self, key: bytes | None = None, times: tuple[float, float] | None = None, **changes: Any) -> bool:
        """
        Whether the first record is believed with these changes; the second is in any case.
        """
        stored, expires = times or (self.stored, self.expires)
        entry = CacheEntry(stored, expires, self.answer._replace(**changes))
        records = Records(encode([(self.key if key is None else key, entry), self.entries[1]], 0, KEY)[HEAD_SIZE:], 0)
        found = list(records)
        self.assertEqual(self.entries[1], found[-1])
        self.assertEqual(2, len(found) + records.invalid)
        return len(found) == 2

    def test_record_with_any_changed_octet_is_valid_or_rejected(self) -> None:
        """
        Whatever is believed can be read by another library, and cut and aged by ours; nothing else is raised.
        """
        for at in range(HEAD_SIZE, len(self.good)):
            for octet in {0, 1, 0x3F, 0x7F, 0x80, 0xC0, 0xFF, self.good[at] ^ 1, self.good[at] ^ 0x20}:
                bad = bytearray(self.good)
                bad[at] = octet
                self.judge(bytes(bad))

    def test_records_before_the_cut_are_accepted(self) -> None:
        """
        What stands before the cut is believed, and the rest is told of.
        """
        second_at = len(encode(self.entries[:1], 0, KEY))
        for size in range(HEAD_SIZE, len(self.good)):
            self.assertEqual(self.entries[: int(size >= second_at)], self.judge(self.good[:size]))

    @settings(max_examples=rounds(300, quick=60))
    @given(st.data())
    def test_mutated_records_are_valid_or_rejected(self, data: st.DataObject) -> None:
        """
        Octets changed, taken away and put in, wherever.
        """
        bad = bytearray(self.good) if hasattr(self, "good") else bytearray(encode(small(), 0, KEY))
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(HEAD_SIZE, len(bad) - 1))
            bad[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
            if len(bad) <= HEAD_SIZE:
                break
        self.judge(bytes(bad))

    def judge(self, octets: bytes) -> list[tuple[bytes, CacheEntry]]:
        """
        Return what is believed of octets; all of it can be used.
        """
        found: list[tuple[bytes, CacheEntry]] = []
        try:
            found.extend(Records(octets[HEAD_SIZE:], 0))
        except Damaged:
            found = self.before_damage(octets)
        for entry in found:
            self.use(entry)
        return found

    def before_damage(self, octets: bytes) -> list[tuple[bytes, CacheEntry]]:
        """
        What is given before it is found that the rest makes no sense.
        """
        found: list[tuple[bytes, CacheEntry]] = []
        records = iter(Records(octets[HEAD_SIZE:], 0))
        while True:
            try:
                found.append(next(records))
            except (Damaged, StopIteration):
                return found

    def use(self, entry: tuple[bytes, CacheEntry]) -> None:
        """
        Do with an entry what the proxy does.
        """
        key, (stored, expires, answer) = entry
        self.assertTrue(math.isfinite(stored) and 0 <= stored <= expires)
        cache = make_cache()
        cache.restore([entry], stored)
        cache.stale(key, expires + 1)
        cache.flush_name(b"\3www\4test\0")
        cache.flush_subtree(b"\4test\0")
        answer.with_ttls([30] * len(answer.ttl_offsets))
        body = answer.aged_body(5)
        self.assertEqual(len(answer.body), len(body))
        self.assertEqual(len(answer.ttl_offsets), len(list(answer.records())))

    def test_accepted_record_is_read_by_dnspython(self) -> None:
        """
        By dnspython, as a message.
        """
        for entry in self.entries:
            self.assertEqual(2, len(readable(entry).answer))

    def test_malformed_keys_are_rejected(self) -> None:
        """
        A name in lower case, type, class, DO and CD, and perhaps a client subnet; for the question that the answer has.
        """
        self.assertTrue(self.kept())
        name, rest = self.key[:-5], self.key[-5:]
        for key in (
            b"",
            name,
            self.key[:-1],
            name.upper() + rest,
            b"\3xyz" + self.key[4:-6] + rest,  # without the root
            b"\4wwww" + self.key[4:],
            b"\xc0\x0c" + rest,
            b"\x40" + self.key[1:],
            name + b"\0\xfa\0\1\0",  # TSIG
            name + b"\0\1\0\1\4",
            self.key + b"\0",
            self.key + b"\0\x08\0\5abcd",
            self.key + b"\0\x0a\0\4abcd",
            b"\3www" * 64 + b"\0" + rest,
        ):
            self.assertFalse(self.kept(key=key), key)
        self.assertTrue(self.kept(key=name + b"\0\xff\0\1\3"))
        self.assertTrue(self.kept(key=self.key + b"\0\x08\0\4abcd"))

    def test_inconsistent_responses_are_rejected(self) -> None:
        """
        Header, counts, records, options and sizes agree.
        """
        head, additionals, body, ttls, _, options, end, _ = self.answer
        for changes in (
            {"question_end": end - 1},
            {"question_end": end + 1},
            {"question_end": 0},
            {"head": b"\x01" + head[1:]},  # a query
            {"head": b"\x89" + head[1:]},  # another opcode
            {"head": b"\x83" + head[1:]},  # truncated
            {"head": head[:1] + b"\x82" + head[2:]},  # SERVFAIL
            {"head": head[:3] + b"\0" + head[4:]},
            {"head": head[:3] + b"\2" + head[4:]},
            {"head": head[:5] + b"\1" + head[6:]},
            {"head": head[:4] + b"\xff\xff\xff\xff"},
            {"extended_rcode": 1},
            {"additional_count": additionals + 1},
            {"ttl_offsets": ()},
            {"ttl_offsets": ttls[:1]},
            {"ttl_offsets": ttls[::-1]},
            {"ttl_offsets": (ttls[0], ttls[1] + 1)},
            {"ttl_offsets": (ttls[0], ttls[0])},
            {"ttl_offsets": (ttls[0], 65535)},
            {"ttl_offsets": (0, ttls[1])},
            {"body": body[:-1]},
            {"body": body + b"\0"},
            {"body": b""},
            {"body": b"\0" + body[1:]},
            {"body": b"\x80" + body[1:]},
            {"body": body[: ttls[0] + 5] + b"\x05" + body[ttls[0] + 6 :]},
            {"body": body[: ttls[1] + 4] + b"\xff\xff" + body[ttls[1] + 6 :]},
            {"options": options[:-1]},
            {"options": options + b"\0"},
            {"options": b"\0\x0f\xff\xff"},
            {"options": (b"\0\x0f\x7f\xff" + bytes(0x7FFF)) + (b"\0\x0f\x7f\xf0" + bytes(0x7FF0))},
        ):
            self.assertFalse(self.kept(**changes), changes)
        self.assertTrue(self.kept(options=b""))
        self.assertTrue(self.kept(head=head[:1] + b"\x83" + head[2:]))

    def test_record_with_an_opt_is_rejected(self) -> None:
        """
        It belongs to a hop, and is never stored.
        """
        body = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
        answer = ParsedResponse(self.answer.head[:4] + bytes(4), 1, body, (5,), 0, b"", self.answer.question_end)
        records = Records(encode([(self.key, (1.0, 2.0, answer))], 0, KEY)[HEAD_SIZE:], 0)
        self.assertEqual([], list(records))
        self.assertEqual(1, records.invalid)

    def test_impossible_times_are_rejected(self) -> None:
        """
        They are numbers, in order, and no longer apart than anything is kept.
        """
        for times in (
            (math.nan, 2.0),
            (1.0, math.nan),
            (math.inf, math.inf),
            (1.0, math.inf),
            (-1.0, 2.0),
            (3.0, 2.0),
            (0.0, 604_801.0),
            (1e308, 1e308),
        ):
            self.assertFalse(self.kept(times=times), times)
        self.assertTrue(self.kept(times=(0.0, 604_800.0)))

    def test_largest_record_is_within_the_limit(self) -> None:
        """
        An answer of as many records as a message holds takes no more than the limit counts for a record.
        """
        count = (65535 - self.answer.question_end - 11) // 11
        body = b"\0\0\x10\0\1\0\0\0\1\0\0" * count
        head = self.answer.head[:4] + count.to_bytes(2, "big") + bytes(2)
        answer = ParsedResponse(head, 0, body, tuple(range(5, 11 * count, 11)), 0, b"", self.answer.question_end)
        octets = encode([(self.key, (1.0, 2.0, answer))], 0, KEY)
        self.assertEqual(1, len(records_of(octets)))
        self.assertLess(len(octets), MAX_RECORD)
