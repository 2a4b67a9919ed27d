"""
The files that TLS to upstreams is built from: ``ca_file``, ``client_certificate``, ``client_key``, the system's CAs.

Decides what counts as a change (the contents, not the path or the date), which contents are usable, and when a change
on disk is read: files are checked with stat(2) every ``INTERVAL`` seconds, and read when they have changed and then
stayed the same for one interval, so that no file is read while it is written. What a change leads to is
``assembly``'s.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from dotproxy.config.model import Config
from dotproxy.errors import ConfigError
from dotproxy.upstream.verification import Credentials, TlsChoices

#: Seconds between two checks of the files.
INTERVAL = 2.0

#: The settings that name such files.
SETTINGS = ("ca_file", "client_certificate", "client_key")

#: Where pyOpenSSL looks for the system's CAs if its OpenSSL was built with other directories than this system's.
_WELL_KNOWN = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/certs",
)

#: Differs between two states of a file; from stat(2) alone.
_Signature = frozenset[tuple[object, ...]]

log = Logger("dotproxy")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    The contents of the files, PEM; None where a setting is not set. ``system`` is a digest of the system's trust
    store, empty if ``ca_file`` is set.
    """

    ca_file: bytes | None
    client_certificate: bytes | None
    client_key: bytes | None
    system: bytes

    def credentials(self, config: Config) -> tuple[bytes | None, TlsChoices]:
        """
        Return the CAs to trust (None: the system's) and the TLS settings.
        """
        return self.ca_file, TlsChoices(
            config.tls_minimum, config.tls_ciphers or "", self.client_certificate, self.client_key
        )

    def changes_since(self, before: TlsFiles) -> list[str]:
        """
        Return a phrase for each file with other contents; a changed path is not a change of contents.
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

    :raises ConfigError: with every problem, if one cannot be read, or holds no certificate.
    """
    problems: list[str] = []
    contents = {key: _read(key, getattr(config, key), problems) for key in SETTINGS}
    if problems:
        raise ConfigError(problems)
    return TlsFiles(**contents, system=b"" if config.ca_file else _digest(system_store()))


def read_usable_tls_files(config: Config) -> TlsFiles:
    """
    Return the contents of the files that ``config`` names, after checking that TLS works with them.

    :raises ConfigError: if it does not.
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
    Return what is wrong with a file of PEM certificates, "" if nothing is.

    The parser ignores a truncated last certificate; such a file was not written to its end.
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
    except Exception as error:  # OpenSSL rejects a certificate or key that could be parsed
        named = ", ".join(key for key in SETTINGS if getattr(config, key)) or "the system's trust store"
        return [f"{named}: TLS cannot be used with it: {error}"]
    return []


def system_store() -> list[Path]:
    """
    Return the files and directories that may hold the system's CAs, each once, whether they exist or not.
    """
    defaults = ssl.get_default_verify_paths()
    named = [os.environ.get("SSL_CERT_FILE", ""), *os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)]
    if not any(named):
        named = [*_WELL_KNOWN]
    paths = filter(None, [*named, defaults.openssl_cafile, defaults.openssl_capath])
    return [Path(path) for path in dict.fromkeys(map(os.path.realpath, paths))]


def _digest(paths: Sequence[Path]) -> bytes:
    """
    Return a digest of these files and directories; unreadable files are left out, as by OpenSSL.
    """
    digest = blake2s()
    for path in paths:
        for member in sorted(_members(path)):
            with suppress(OSError):
                digest.update(blake2s(member.encode() + Path(member).read_bytes()).digest())
    return digest.digest()


def _signature(paths: Sequence[Path]) -> _Signature:
    """
    Return a value that changes when one of these files is written or replaced, or a file in one of these directories
    is added, removed or replaced. A file in a directory that is written in place is noticed by a reload only: there
    may be hundreds of them.
    """
    return frozenset(map(_stat, paths))


def _members(path: Path) -> list[str]:
    """
    Return the paths in a directory; the path itself if it is none.
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
    Notices changes of TLS files.

    Owns: the timer that checks the files.
    Tells: ``reload_files``, when files have changed; it returns a phrase for each with new contents, or raises
    ``ConfigError``.

    ``paths`` returns the files to check; ``effect`` describes in the log what a change leads to.  With ``is_quiet``
    nothing is logged: the supervisor logs for all workers.
    """

    def __init__(
        self,
        paths: Callable[[], Sequence[Path]],
        reload_files: Callable[[], list[str]],
        *,
        clock: IReactorTime,
        is_quiet: bool = False,
        effect: str = "connections to upstreams are made anew",
    ) -> None:
        self._paths = paths
        self._reload_files = reload_files
        self._clock = clock
        self._is_quiet = is_quiet
        self._effect = effect
        self._known = self._latest = _signature(paths())
        self._problems: list[str] = []
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """
        Start the checks.
        """
        super().startService()
        self._timer = self._clock.callLater(INTERVAL, self._check)

    def stopService(self) -> None:
        """
        Stop the checks.
        """
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = self._clock.callLater(INTERVAL, self._check)
        before, self._latest = self._latest, _signature(self._paths())
        if self._latest == self._known or self._latest != before:
            return
        self._known = self._latest
        try:
            changes, problems = self._reload_files(), []
        except ConfigError as error:
            changes, problems = [], error.problems
        if not self._is_quiet:
            for problem in problems:
                if problem not in self._problems:
                    log.error("{problem}; its previous contents stay in use", problem=problem)
            if changes:
                log.info("{changes}: {effect}", changes="; ".join(changes), effect=self._effect)
        self._problems = problems


def watched_paths(config: Config) -> list[Path]:
    """
    Return the files to watch under ``config``.
    """
    named: list[Path | None] = [getattr(config, key) for key in SETTINGS]
    return [path for path in named if path is not None] + ([] if config.ca_file else system_store())
