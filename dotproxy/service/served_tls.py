"""
The certificate that clients over TLS are shown: its files, read again when they change, and what is told of it.

Decides which contents can be used, and when the operator hears of its end.  A pair that cannot be used, as one that is
half written, changes nothing; it is told once, and looked at again when it has changed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from dotproxy.config.model import Config
from dotproxy.config.served_tls import expiry_warning
from dotproxy.downstream.tls_context import CurrentContext, ServerTls
from dotproxy.errors import ConfigError
from dotproxy.service.systemd import inherited_for_tls
from dotproxy.service.tls_files import TlsFileWatch, problem_with_certificates
from dotproxy.upstream.tls_reads import new_connection

#: How often it is looked at when the certificate expires, in seconds.
LOOK = 3600.0

#: After so many looks it is told again that it expires soon, and tickets get a new key: a day.
_LOOKS = 24

log = Logger("dotproxy")


@dataclass(frozen=True, slots=True)
class TlsFilePaths:
    """
    Where the files are.
    """

    certificate: Path
    key: Path
    client_ca: Path | None

    def all(self) -> list[Path]:
        """
        Return each.
        """
        return [self.certificate, self.key] + ([self.client_ca] if self.client_ca is not None else [])


@dataclass(frozen=True, slots=True)
class Served:
    """
    What clients are shown, and from where.
    """

    paths: TlsFilePaths
    tls: ServerTls


class ServedTls(MultiService):
    """
    Owns: the timers that look at the files and at the date.

    ``current`` is the context of new handshakes.  ``date`` returns seconds since 1970.  With ``is_quiet`` nothing is
    logged: another process does.

    :raises ConfigError: if the files cannot be used.
    """

    def __init__(
        self, config: Config, *, clock: IReactorTime, date: Callable[[], float], is_quiet: bool = False
    ) -> None:
        super().__init__()
        self._date = date
        self._is_quiet = is_quiet
        self._config = config
        # Before the files are read, so that it notices what is written after that.
        watch = TlsFileWatch(
            self._watched,
            self._take_files,
            clock=clock,
            is_quiet=is_quiet,
            effect="new connections of clients get it",
        )
        watch.setServiceParent(self)
        self._served = read_served_tls(config)
        self.current = CurrentContext(self._served.tls.context(), new_connection)
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._looks = 0

    @property
    def not_after(self) -> float:
        """
        When the certificate expires, in seconds since 1970.
        """
        return self._served.tls.not_after.timestamp()

    def startService(self) -> None:
        """
        Look from now on; what is to be said at the start ``config`` has said.
        """
        super().startService()
        self._looking.start(LOOK, now=False)

    def stopService(self) -> Deferred[None]:
        """
        Look no more.
        """
        if self._looking.running:
            self._looking.stop()
        stopped: Deferred[None] = super().stopService()
        return stopped

    def take(self, config: Config, served: Served) -> list[str]:
        """
        Show this from now on; return which files have new contents, a phrase each.
        """
        self._config = config
        before, self._served = self._served, served
        if before.tls == served.tls:
            return []
        self.current.context = served.tls.context()
        self._looks = 0
        if before.tls.certificate != served.tls.certificate:
            self._tell_expiry()
        return [
            f"{key}: new contents"
            for key, old, new in (
                ("tls_certificate", before.tls.certificate, served.tls.certificate),
                ("tls_key", before.tls.key, served.tls.key),
                ("tls_client_ca", before.tls.client_ca, served.tls.client_ca),
            )
            if None not in (old, new) and old != new
        ]

    def _watched(self) -> list[Path]:
        paths = _paths_of(self._config)
        return [] if paths is None else paths.all()

    def _take_files(self) -> list[str]:
        return self.take(self._config, read_served_tls(self._config))

    def _look(self) -> None:
        self._looks += 1
        if self._looks >= _LOOKS:
            self._looks = 0
            self.current.context = self._served.tls.context()
            self._tell_expiry()

    def _tell_expiry(self) -> None:
        now = datetime.fromtimestamp(self._date(), UTC)
        problem = expiry_warning(self._served.tls.not_after, now)
        if problem and not self._is_quiet:
            log.warn("tls_certificate: '{path}' {problem}", path=str(self._served.paths.certificate), problem=problem)


def sockets_for_tls(config: Config, environ: Mapping[str, str]) -> list[socket.socket]:
    """
    Return the sockets for TLS that systemd has opened; none, and a line about it, if there is no certificate for them.
    """
    passed = inherited_for_tls(environ)
    if passed and not config.listen_tls:
        log.error("systemd has opened a socket named tls, but listen_tls is not set: it is not served")
        for one in passed:
            one.close()
        return []
    return passed


def read_served_tls(config: Config) -> Served:
    """
    Return the contents of the files that ``config`` names, having seen that TLS can be used with them.

    :raises ConfigError: with every problem there is.
    """
    paths = _paths_of(config)
    if paths is None:
        raise ConfigError(["listen_tls: needs tls_certificate and tls_key"])
    problems: list[str] = []
    certificate = _read("tls_certificate", paths.certificate, problems)
    key = _read("tls_key", paths.key, problems)
    client_ca = _read("tls_client_ca", paths.client_ca, problems) if paths.client_ca is not None else None
    if not problems:
        problems += _problems_with(paths, certificate, key, client_ca)
    tls = ServerTls(certificate, key, client_ca, config.tls_minimum, config.tls_ciphers or "")
    if not problems:
        try:
            tls.context()
        except Exception as error:  # whatever OpenSSL says of what could be parsed
            problems.append(f"tls_certificate, tls_key: TLS cannot be used with them: {error}")
    if problems:
        raise ConfigError(problems)
    return Served(paths, tls)


def _paths_of(config: Config) -> TlsFilePaths | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return TlsFilePaths(config.tls_certificate, config.tls_key, config.tls_client_ca)


def _read(key: str, path: Path, problems: list[str]) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problems.append(f"{key}: '{path}' cannot be read: {(error.strerror or str(error)).lower()}")
        return b""


def _problems_with(paths: TlsFilePaths, certificate: bytes, key: bytes, client_ca: bytes | None) -> Sequence[str]:
    problems = [
        f"{name}: '{path}' {problem}"
        for name, path, pem in (
            ("tls_certificate", paths.certificate, certificate),
            ("tls_client_ca", paths.client_ca, client_ca),
        )
        if pem is not None and (problem := problem_with_certificates(pem))
    ]
    try:
        public_key = load_pem_private_key(key, None).public_key()
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return [*problems, f"tls_key: '{paths.key}' holds no PEM key that can be read without a passphrase"]
    if not problems and load_pem_x509_certificates(certificate)[0].public_key() != public_key:
        problems.append(f"tls_key: '{paths.key}' is not the key of the first certificate in '{paths.certificate}'")
    return problems
