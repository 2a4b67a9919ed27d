"""
The certificate that the DNS-over-TLS listener presents: its files, their reload, and warnings about its expiry.

Decides which file contents are usable, and when the operator is warned of expiry.  Contents that are not usable (a file
half written) change nothing: the problem is logged once, and the files are read again when they change.  The files for
TLS to upstreams are ``tls_files``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from dotproxy.config.listener_certificate import expiry_warning
from dotproxy.config.model import Config
from dotproxy.downstream.tls_context import CurrentContext, ServerTls
from dotproxy.errors import ConfigError
from dotproxy.service.tls_files import TlsFileWatch, problem_with_certificates
from dotproxy.upstream.tls_reads import new_connection

#: Seconds between two checks of the expiry date.
CHECK_INTERVAL = 3600.0

#: Checks after which the expiry warning is repeated and session tickets get a new key: a day.
_CHECKS_A_DAY = 24

log = Logger("dotproxy")


@dataclass(frozen=True, slots=True)
class TlsFilePaths:
    """
    The paths of ``tls_certificate``, ``tls_key`` and ``tls_client_ca``.
    """

    certificate: Path
    key: Path
    client_ca: Path | None

    def all(self) -> list[Path]:
        """
        Return every path that is set.
        """
        return [self.certificate, self.key] + ([self.client_ca] if self.client_ca is not None else [])


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """
    Usable file contents, and the paths they came from.
    """

    paths: TlsFilePaths
    server_tls: ServerTls


class ListenerCertificate(MultiService):
    """
    The listener's certificate while the service runs.

    Owns: the timers that check the files and the expiry date.

    ``current`` is the TLS context of new handshakes.  ``wall_time`` returns seconds since 1970.  With ``is_quiet``
    nothing is logged: the supervisor logs for all workers.

    :raises ConfigError: if the files are not usable.
    """

    def __init__(
        self, config: Config, *, clock: IReactorTime, wall_time: Callable[[], float], is_quiet: bool = False
    ) -> None:
        super().__init__()
        self._wall_time = wall_time
        self._is_quiet = is_quiet
        self._config = config
        # Before the files are read, so that a later write is noticed.
        watch = TlsFileWatch(
            self._watched_paths,
            self._reload_files,
            clock=clock,
            is_quiet=is_quiet,
            effect="new connections of clients get it",
        )
        watch.setServiceParent(self)
        self._tls = read_listener_tls(config)
        self.current = CurrentContext(self._tls.server_tls.context(), new_connection)
        self._expiry_check = LoopingCall(self._check_expiry)
        self._expiry_check.clock = clock
        self._checks = 0

    @property
    def not_after(self) -> float:
        """
        When the certificate expires, in seconds since 1970.
        """
        return self._tls.server_tls.not_after.timestamp()

    def startService(self) -> None:
        """
        Start the checks; ``config`` has warned of an expiry at the start.
        """
        super().startService()
        self._expiry_check.start(CHECK_INTERVAL, now=False)

    def stopService(self) -> Deferred[None]:
        """
        Stop the checks.
        """
        if self._expiry_check.running:
            self._expiry_check.stop()
        stopped: Deferred[None] = super().stopService()
        return stopped

    def replace(self, config: Config, tls: ListenerTls) -> list[str]:
        """
        Use ``tls`` for new handshakes; return a phrase for each file with new contents.
        """
        self._config = config
        before, self._tls = self._tls, tls
        if before.server_tls == tls.server_tls:
            return []
        self.current.context = tls.server_tls.context()
        self._checks = 0
        if before.server_tls.certificate != tls.server_tls.certificate:
            self._warn_of_expiry()
        return [
            f"{key}: new contents"
            for key, old, new in (
                ("tls_certificate", before.server_tls.certificate, tls.server_tls.certificate),
                ("tls_key", before.server_tls.key, tls.server_tls.key),
                ("tls_client_ca", before.server_tls.client_ca, tls.server_tls.client_ca),
            )
            if None not in (old, new) and old != new
        ]

    def _watched_paths(self) -> list[Path]:
        paths = _paths_of(self._config)
        return [] if paths is None else paths.all()

    def _reload_files(self) -> list[str]:
        return self.replace(self._config, read_listener_tls(self._config))

    def _check_expiry(self) -> None:
        self._checks += 1
        if self._checks >= _CHECKS_A_DAY:
            self._checks = 0
            self.current.context = self._tls.server_tls.context()
            self._warn_of_expiry()

    def _warn_of_expiry(self) -> None:
        now = datetime.fromtimestamp(self._wall_time(), UTC)
        problem = expiry_warning(self._tls.server_tls.not_after, now)
        if problem and not self._is_quiet:
            log.warn("tls_certificate: '{path}' {problem}", path=str(self._tls.paths.certificate), problem=problem)


def read_listener_tls(config: Config) -> ListenerTls:
    """
    Return the contents of the files that ``config`` names, after checking that TLS works with them.

    :raises ConfigError: with every problem found.
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
        except Exception as error:  # OpenSSL rejects contents that could be parsed
            problems.append(f"tls_certificate, tls_key: TLS cannot be used with them: {error}")
    if problems:
        raise ConfigError(problems)
    return ListenerTls(paths, tls)


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
