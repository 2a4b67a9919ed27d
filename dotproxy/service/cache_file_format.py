"""
The form of the cache file, and the key that authenticates it.

Decides what a file holds, and what of it is believed: all of it or nothing by its authentication code, and then each
record by itself.  Whoever can write the file but cannot read its key (another volume, a shared directory, a backup of
the file alone) can make no answers of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from struct import Struct, error

from dotproxy.cache.responses import CacheEntry
from dotproxy.cache.stored_response import check_stored
from dotproxy.errors import WireError
from dotproxy.service.private_files import NotPrivate, read_private, write_private
from dotproxy.wire.parsed_response import MAX_TTL_OFFSETS, ParsedResponse, make_parsed_response

_MAGIC = b"dotproxy cache 2\n"
_MAGIC_OF_1 = b"dotproxy cache 1\n"
_CODE_SIZE = 32
_KEY_SIZE = 32
_PERSON = b"dotproxy cache"

#: What a file has before its records.
HEAD_SIZE = len(_MAGIC) + _CODE_SIZE

#: When stored and when it expires, in seconds since 1970; the header; ARCOUNT; upper rcode bits; where the question
#: ends; how long key, options and body are, and how many TTLs there are.
_RECORD = Struct("!dd8sHBHHHHH")

#: No record takes more octets: its key, a message, and for each of at most 5,957 TTLs (of 11 octets each) its place.
MAX_RECORD = 80_000

#: Nothing is kept for longer: the greatest cache_max_ttl, in seconds.
_MAX_LIFETIME = 604_800.0

#: Nor can any time be later, in seconds since 1970 (in the year 5138).
_LATEST = 1e11

_new = tuple.__new__


class Damaged(Exception):
    """
    A file is not what was written; why.
    """


class Outdated(Exception):
    """
    A file is of a version that is not read any more.
    """


class Records:
    """
    What a file holds, to be iterated once; ``invalid`` counts the records that were left out.

    ``shift`` is what has to be added to a time of the cache to have it in seconds since 1970.
    """

    def __init__(self, content: bytes, shift: float) -> None:
        self._content = content
        self._shift = shift
        self.invalid = 0

    def __iter__(self) -> Iterator[tuple[bytes, CacheEntry]]:
        """
        Yield each record that may be given to clients.

        :raises Damaged: where there is no record.
        """
        content, size, shift = self._content, len(self._content), self._shift
        unpack_from, record_size = _RECORD.unpack_from, _RECORD.size
        offset = 0
        while offset < size:
            try:
                stored, expires, head, additionals, extended, end, *sizes = unpack_from(content, offset)
            except error:
                raise Damaged("it ends within a record") from None
            key_at = offset + record_size
            options_at = key_at + sizes[0]
            body_at = options_at + sizes[1]
            ttls_at = body_at + sizes[2]
            offset = ttls_at + 2 * sizes[3]
            if offset > size:
                raise Damaged("it ends within a record")
            key = content[key_at:options_at]
            ttls = _offsets(sizes[3]).unpack_from(content, ttls_at)
            body, options = content[body_at:ttls_at], content[options_at:body_at]
            answer: ParsedResponse = _new(ParsedResponse, (head, additionals, body, ttls, extended, options, end, b""))
            try:
                if not (0.0 <= stored <= expires <= stored + _MAX_LIFETIME and expires < _LATEST):  # NaN is none of it
                    raise WireError("times that make no sense")
                check_stored(key, answer)
            except WireError:
                self.invalid += 1
            else:
                if len(ttls) > MAX_TTL_OFFSETS:
                    answer = make_parsed_response(head, additionals, body, ttls, extended, options, end)
                yield key, CacheEntry(stored - shift, expires - shift, answer)


_STRUCTS: dict[int, Struct] = {}


def _offsets(count: int) -> Struct:
    """
    The form of so many TTL offsets; to make a Struct takes longer than to use it.
    """
    known = _STRUCTS.get(count)
    if known is None:
        known = Struct(f"!{count}H")
        if count < 64:
            _STRUCTS[count] = known
    return known


def encoded(entries: Iterable[tuple[bytes, CacheEntry]], shift: float, key: bytes) -> bytes:
    """
    Return what a file holds; ``shift`` as for ``Records``.
    """
    parts: list[bytes] = []
    for name, (stored, expires, answer) in entries:
        head, additionals, body, _, extended, options, end, _ = answer
        ttls = answer.all_ttl_offsets()
        sizes = (len(name), len(options), len(body), len(ttls))
        parts.append(_RECORD.pack(stored + shift, expires + shift, head, additionals, extended, end, *sizes))
        parts += (name, options, body, _offsets(len(ttls)).pack(*ttls))
    content = b"".join(parts)
    return _MAGIC + _code(content, key) + content


def believed(octets: bytes, key: bytes) -> bytes:
    """
    Return the records of a file's octets.

    :raises Damaged: unless it was written by somebody who has the key.
    """
    check_version(octets)
    content = octets[HEAD_SIZE:]
    if not compare_digest(_code(content, key), octets[len(_MAGIC) : HEAD_SIZE]):
        raise Damaged("its authentication code is wrong")
    return content


def check_version(octets: bytes) -> None:
    """
    Check how a file begins.

    :raises Outdated: if it was written by an older dotproxy.
    :raises Damaged: if it is none of this version's.
    """
    if octets.startswith(_MAGIC_OF_1):
        raise Outdated("it was written by an older version")
    if not octets.startswith(_MAGIC):
        raise Damaged("it is of another version, or no cache at all")


def _code(content: bytes, key: bytes) -> bytes:
    return blake2b(content, digest_size=_CODE_SIZE, key=key, person=_PERSON).digest()


def key_path(path: Path) -> Path:
    """
    Return where the key of a cache file is: beside it.
    """
    return path.with_name(f"{path.name}.key")


def read_key(path: Path) -> bytes:
    """
    Return the key of the cache file at ``path``.

    :raises NotPrivate: if there is none, or none that can be a secret.
    :raises OSError: if it cannot be read.
    """
    where = key_path(path)
    try:
        key = read_private(where, _KEY_SIZE, is_secret=True)
    except FileNotFoundError:
        raise NotPrivate(f"its key, {where.name}, is not there") from None
    except NotPrivate as why:
        raise NotPrivate(f"its key, {where.name}: {why}") from None
    if len(key) != _KEY_SIZE:
        raise NotPrivate(f"its key, {where.name}, has {len(key)} octets and not {_KEY_SIZE}")
    return key


def load_file(path: Path, limit: int) -> bytes:
    """
    Return the records of a cache file with at most ``limit`` octets of them.

    :raises FileNotFoundError: if there is none.
    :raises NotPrivate: if somebody else may have written it, or its key cannot be used.
    :raises Outdated: if it was written by an older dotproxy.
    :raises Damaged: if it is not what was written.
    """
    octets = read_private(path, limit + HEAD_SIZE)
    check_version(octets)
    return believed(octets, read_key(path))


def save_file(path: Path, entries: Iterable[tuple[bytes, CacheEntry]], shift: float) -> None:
    """
    Write a cache file; if it has no key that can be used, one is made first.

    :raises NotPrivate: if everybody may replace files in its directory.
    :raises OSError: if it cannot be written.
    """
    try:
        key = read_key(path)
    except NotPrivate:
        key = os.urandom(_KEY_SIZE)
        write_private(key_path(path), key)
    write_private(path, encoded(entries, shift, key))
