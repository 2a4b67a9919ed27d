"""
Files that only this process's user, or root, can have written.

Decides whether a file is trusted: it is a regular file and no symbolic link, its owner is this process's user or root,
no other user may write it (or read it, if it is a secret), and its directory does not let every user replace it.
Refuses to know what the file holds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_GROUP_OR_OTHERS_WRITE = 0o022
_GROUP_OR_OTHERS = 0o077

#: Directories are opened to stat them and to look names up, for which they need not be readable.
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class NotPrivate(Exception):
    """
    A file, or its directory, is not trusted; the text says why.
    """


def read_private(path: Path, limit: int, *, is_secret: bool = False) -> bytes:
    """
    Return the contents of a file of at most ``limit`` octets; a larger one is not read.

    :raises NotPrivate: if it is larger, or others may have written it (or read it, if ``is_secret``).
    :raises OSError: if it cannot be read; ``FileNotFoundError`` if there is none.
    """
    with _directory(path) as directory:
        try:
            # O_NONBLOCK: opening a pipe would wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path.name, flags, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotPrivate("it is a symbolic link") from None
            raise
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _check(found, is_secret=is_secret)
        if found.st_size > limit:
            raise NotPrivate(f"it has {found.st_size} octets, and at most {limit} are read")
        octets = file.read(found.st_size + 1)
    if len(octets) != found.st_size:
        raise NotPrivate("it changed while it was read")
    return octets


def write_private(path: Path, octets: bytes) -> None:
    """
    Replace a file atomically, with mode 0600.

    :raises NotPrivate: if any user may replace files in its directory.
    :raises OSError: if it cannot be written.
    """
    temporary = f".{path.name}.new"
    with _directory(path) as directory:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    """
    Open the directory of a path, so that it cannot be replaced between two steps.
    """
    descriptor = os.open(path.parent, _DIRECTORY)
    try:
        mode = os.fstat(descriptor).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise NotPrivate(f"everybody may replace files in {path.parent} (mode {stat.S_IMODE(mode):04o})")
        yield descriptor
    finally:
        os.close(descriptor)


def _check(found: os.stat_result, *, is_secret: bool) -> None:
    """
    Check type, owner and mode of a file.

    :raises NotPrivate: if users other than ours and root may have written it (or read it, if ``is_secret``).
    """
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise NotPrivate("it is not a regular file")
    if found.st_uid not in (os.geteuid(), 0):
        raise NotPrivate(f"it belongs to user {found.st_uid}, not to user {os.geteuid()} or root")
    if mode & _GROUP_OR_OTHERS_WRITE:
        raise NotPrivate(f"others may write it (mode {mode:04o})")
    if is_secret and mode & _GROUP_OR_OTHERS:
        raise NotPrivate(f"others may read it (mode {mode:04o})")
