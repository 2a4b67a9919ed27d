"""
The files that TLS to upstreams is built from: their contents, and when those have changed.

Decides what counts as a change (the contents, not the path or the date), which contents can be used, and when a change
on disk is looked at: files are stat'ed every ``INTERVAL`` seconds, and read when they have changed and stayed the same
for one interval, so that a file is not read while it is written.  What is done about a change is ``assembly``'s.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from dotproxy.config.model import Config
from dotproxy.errors import ConfigError
from dotproxy.upstream.verification import Credentials, TlsChoices

#: How often files are looked at, in seconds.
INTERVAL = 2.0

#: The settings that name such files.
SETTINGS = ("ca_file", "client_certificate", "client_key")

#: Where pyOpenSSL looks for the system's CAs when the OpenSSL it was built with knows no directory of this system.
_WELL_KNOWN = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/certs",
)

#: What tells two states of a file apart without reading it.
_Signature = frozenset[tuple[object, ...]]

log = Logger("dotproxy")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    The contents of the files; None where a setting names none.  ``system`` is a digest of the system's trust store,
    empty if ``ca_file`` is used instead.
    """

    ca_file: bytes | None
    client_certificate: bytes | None
    client_key: bytes | None
    system: bytes

    def credentials(self, config: Config) -> tuple[bytes | None, TlsChoices]:
        """
        Return the CAs to believe and how TLS is spoken, with these contents.
        """
        return self.ca_file, TlsChoices(
            config.tls_minimum, config.tls_ciphers or "", self.client_certificate, self.client_key
        )

    def changes_since(self, before: TlsFiles) -> list[str]:
        """
        Return what has other contents than before, a phrase each; another path is not told here.
        """
        changes = [
            f"{key}: new contents"
            for key in SETTINGS
            if None not in (old := getattr(before, key), new := getattr(self, key)) and old != new
        ]
        if self.system and before.system and self.system != before.system:
            changes.append("the system's trust store: new contents")
        return changes


def read_tls_files(config: Config) -> TlsFiles:
    """
    Return the contents of the files that ``config`` names.

    :raises ConfigError: if one cannot be read, or is not what it should be; with every problem there is.
    """
    problems: list[str] = []
    contents = {key: _read(key, getattr(config, key), problems) for key in SETTINGS}
    if problems:
        raise ConfigError(problems)
    return TlsFiles(**contents, system=b"" if config.ca_file else _digest(system_store()))


def read_usable_tls_files(config: Config) -> TlsFiles:
    """
    Return the contents of the files that ``config`` names, having seen that TLS can be used with them.

    :raises ConfigError: if it cannot.
    """
    files = read_tls_files(config)
    if problems := _check_use(config, files):
        raise ConfigError(problems)
    return files


def _read(key: str, path: Path | None, problems: list[str]) -> bytes | None:
    if path is None:
        return None
    try:
        pem = path.read_bytes()
    except OSError as error:
        problems.append(f"{key}: '{path}' cannot be read: {(error.strerror or str(error)).lower()}")
        return None
    if key != "client_key" and (problem := problem_with_certificates(pem)):
        problems.append(f"{key}: '{path}' {problem}")
    return pem


def problem_with_certificates(pem: bytes) -> str:
    """
    Return what is wrong with a file of certificates, "" if nothing is.

    The reader passes over a last certificate that is cut off; a file in which one is has not been written to its end.
    """
    begun = pem.count(b"-----BEGIN CERTIFICATE-----")
    try:
        found = len(load_pem_x509_certificates(pem))
    except ValueError:
        return "holds no PEM certificate that can be read"
    return "" if found >= begun else f"is cut off: {begun} certificates begin in it, {found} can be read"


def _check_use(config: Config, files: TlsFiles) -> list[str]:
    if files.client_certificate is not None and files.client_key is not None:
        try:
            key = load_pem_private_key(files.client_key, None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            return [f"client_key: '{config.client_key}' holds no PEM key that can be read without a passphrase"]
        shown = load_pem_x509_certificates(files.client_certificate)[0].public_key()
        if key.public_key() != shown:
            return [f"client_key: is not the key of the first certificate in '{config.client_certificate}'"]
    try:
        Credentials(*files.credentials(config)).options()
    except Exception as error:  # whatever OpenSSL says of a certificate or key that could be parsed
        named = ", ".join(key for key in SETTINGS if getattr(config, key)) or "the system's trust store"
        return [f"{named}: TLS cannot be used with it: {error}"]
    return []


def system_store() -> list[Path]:
    """
    Return the files and directories that the system's CAs may come from, each once, whether they exist or not.
    """
    defaults = ssl.get_default_verify_paths()
    named = [os.environ.get("SSL_CERT_FILE", ""), *os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)]
    if not any(named):
        named = [*_WELL_KNOWN]
    paths = filter(None, [*named, defaults.openssl_cafile, defaults.openssl_capath])
    return [Path(path) for path in dict.fromkeys(map(os.path.realpath, paths))]


def _digest(paths: Sequence[Path]) -> bytes:
    """
    Return a digest of what is in these files and directories; what cannot be read OpenSSL cannot read either.
    """
    digest = blake2s()
    for path in paths:
        for member in sorted(_members(path)):
            with suppress(OSError):
                digest.update(blake2s(member.encode() + Path(member).read_bytes()).digest())
    return digest.digest()


def _signature(paths: Sequence[Path]) -> _Signature:
    """
    Return what changes when one of these files is written or replaced, or one in these directories added, removed or
    replaced; what is written in place in a directory is seen by a reload only, for there may be hundreds of files.
    """
    return frozenset(map(_stat, paths))


def _members(path: Path) -> list[str]:
    """
    Return a file, or what is in a directory.
    """
    try:
        return [entry.path for entry in os.scandir(path)]
    except OSError:
        return [str(path)]


def _stat(path: Path) -> tuple[object, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return (path, error.errno)
    return (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class TlsFileWatch(Service):
    """
    Owns: the timer that looks at the files.
    Tells: ``take``, when files have changed: it reads them and returns what has new contents, or raises
    ``ConfigError``.

    ``paths`` returns what is to be looked at; ``effect`` says what becomes of changes.  With ``is_quiet`` nothing is
    logged: another process does.
    """

    def __init__(
        self,
        paths: Callable[[], Sequence[Path]],
        take: Callable[[], list[str]],
        *,
        clock: IReactorTime,
        is_quiet: bool = False,
        effect: str = "connections to upstreams are made anew",
    ) -> None:
        self._paths = paths
        self._take = take
        self._clock = clock
        self._is_quiet = is_quiet
        self._effect = effect
        self._known = self._latest = _signature(paths())
        self._problems: list[str] = []
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """
        Look from now on.
        """
        super().startService()
        self._timer = self._clock.callLater(INTERVAL, self._look)

    def stopService(self) -> None:
        """
        Look no more.
        """
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._clock.callLater(INTERVAL, self._look)
        before, self._latest = self._latest, _signature(self._paths())
        if self._latest == self._known or self._latest != before:
            return
        self._known = self._latest
        try:
            changes, problems = self._take(), []
        except ConfigError as error:
            changes, problems = [], error.problems
        if not self._is_quiet:
            for problem in problems:
                if problem not in self._problems:
                    log.error("{problem}; what it held before still counts", problem=problem)
            if changes:
                log.info("{changes}: {effect}", changes="; ".join(changes), effect=self._effect)
        self._problems = problems


def watched_paths(config: Config) -> list[Path]:
    """
    Return the files that TLS to upstreams is built from under ``config``.
    """
    named = [cast(Any, getattr(config, key)) for key in SETTINGS]
    return [path for path in named if path is not None] + ([] if config.ca_file else system_store())
