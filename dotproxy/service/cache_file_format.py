"""
The form of the cache file, and the key that authenticates it.

Decides what a file holds, and what of it is trusted: first the whole file by its authentication code, then each
record by itself. A user who can write the file but not read its key (another volume, a shared directory, a backup of
the file alone) cannot forge responses.
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

#: Octets before the records.
HEAD_SIZE = len(_MAGIC) + _CODE_SIZE

#: Times of storing and of expiry, in seconds since 1970; header; ARCOUNT; upper rcode bits; end of the question;
#: lengths of key, options and body; number of TTLs.
_RECORD = Struct("!dd8sHBHHHHH")

#: Largest record in octets: its key, a message, and the offset of each of at most 5,957 TTLs (11 octets a record).
MAX_RECORD = 80_000

#: Longest lifetime of a record, in seconds: the greatest cache_max_ttl.
_MAX_LIFETIME = 604_800.0

#: Latest time of a record, in seconds since 1970 (in the year 5138).
_LATEST = 1e11

_new = tuple.__new__


class Damaged(Exception):
    """
    A file has other contents than were written; the text says why.
    """


class Outdated(Exception):
    """
    A file has the form of an older version, which is not read.
    """


class Records:
    """
    The records of a file, to be iterated once; ``invalid`` counts those that were left out.

    ``shift`` is added to a time of the cache (boottime) to have seconds since 1970.
    """

    def __init__(self, content: bytes, shift: float) -> None:
        self._content = content
        self._shift = shift
        self.invalid = 0

    def __iter__(self) -> Iterator[tuple[bytes, CacheEntry]]:
        """
        Yield each valid record: its key and its entry.

        :raises Damaged: if the file ends within a record.
        """
        content, size, shift = self._content, len(self._content), self._shift
        unpack_from, record_size = _RECORD.unpack_from, _RECORD.size
        offset = 0
        while offset < size:
            try:
                fields = unpack_from(content, offset)
            except error:
                raise Damaged("it ends within a record") from None
            stored, expires, head, additionals, extended, end, key_size, options_size, body_size, ttl_count = fields
            key_at = offset + record_size
            options_at = key_at + key_size
            body_at = options_at + options_size
            ttls_at = body_at + body_size
            offset = ttls_at + 2 * ttl_count
            if offset > size:
                raise Damaged("it ends within a record")
            key = content[key_at:options_at]
            ttls = _offsets(ttl_count).unpack_from(content, ttls_at)
            body, options = content[body_at:ttls_at], content[options_at:body_at]
            answer: ParsedResponse = _new(ParsedResponse, (head, additionals, body, ttls, extended, options, end, b""))
            try:
                if not (0.0 <= stored <= expires <= stored + _MAX_LIFETIME and expires < _LATEST):  # NaN fails too
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
    Return the form of so many TTL offsets; small ones are kept, since making a Struct takes longer than using it.
    """
    known = _STRUCTS.get(count)
    if known is None:
        known = Struct(f"!{count}H")
        if count < 64:
            _STRUCTS[count] = known
    return known


def encode(entries: Iterable[tuple[bytes, CacheEntry]], shift: float, key: bytes) -> bytes:
    """
    Return the octets of a file; ``shift`` as for ``Records``.
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


def authenticate(octets: bytes, key: bytes) -> bytes:
    """
    Return the records in a file's octets, undecoded.

    :raises Damaged: unless its authentication code was made with ``key``.
    """
    check_version(octets)
    content = octets[HEAD_SIZE:]
    if not compare_digest(_code(content, key), octets[len(_MAGIC) : HEAD_SIZE]):
        raise Damaged("its authentication code is wrong")
    return content


def check_version(octets: bytes) -> None:
    """
    Check the version at the beginning of a file.

    :raises Outdated: if an older version has written it.
    :raises Damaged: if it is not a cache file of this version.
    """
    if octets.startswith(_MAGIC_OF_1):
        raise Outdated("it was written by an older version")
    if not octets.startswith(_MAGIC):
        raise Damaged("it is of another version, or no cache at all")


def _code(content: bytes, key: bytes) -> bytes:
    return blake2b(content, digest_size=_CODE_SIZE, key=key, person=_PERSON).digest()


def key_path(path: Path) -> Path:
    """
    Return the path of a cache file's key, in the same directory.
    """
    return path.with_name(f"{path.name}.key")


def read_key(path: Path) -> bytes:
    """
    Return the key of the cache file at ``path``.

    :raises NotPrivate: if there is none, or others may have read or written it.
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
    Return the records of a cache file, undecoded; at most ``limit`` octets are read.

    :raises FileNotFoundError: if there is none.
    :raises NotPrivate: if others may have written it, or its key is not usable.
    :raises Outdated: if an older version has written it.
    :raises Damaged: if its contents are not those that were written.
    """
    octets = read_private(path, limit + HEAD_SIZE)
    check_version(octets)
    return authenticate(octets, read_key(path))


def save_file(path: Path, entries: Iterable[tuple[bytes, CacheEntry]], shift: float) -> None:
    """
    Write a cache file; write a new key first if there is no usable one.

    :raises NotPrivate: if any user may replace files in its directory.
    :raises OSError: if it cannot be written.
    """
    try:
        key = read_key(path)
    except NotPrivate:
        key = os.urandom(_KEY_SIZE)
        write_private(key_path(path), key)
    write_private(path, encode(entries, shift, key))
