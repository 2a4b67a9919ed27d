"""
Checks of the settings of the listeners for DNS over TLS.

Decides which combinations are invalid, and which are valid but get a warning.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dotproxy.config.model import Config

#: A certificate that expires within this time gets a warning.
EXPIRES_SOON = timedelta(days=7)

_FILES = ("tls_certificate", "tls_key", "tls_client_ca")


def disagreements_of_tls(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    """
    Yield a line for each invalid combination.
    """
    if not config.listen_tls:
        for key in _FILES:
            if getattr(config, key) is not None:
                yield f"{key} ({sources[key]}): is of no use without listen_tls"
        return
    for key in ("tls_certificate", "tls_key"):
        if getattr(config, key) is None:
            yield f"listen_tls ({sources['listen_tls']}): needs {key}"
    certificate, key_file = config.tls_certificate, config.tls_key
    if certificate is not None and key_file is not None and not _is_pair(certificate, key_file):
        yield f"tls_key ({sources['tls_key']}): is not the key of the first certificate in {certificate}"


def warnings_of_tls(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    """
    Yield a line for each setting that is valid but insecure or about to expire.
    """
    if config.tls_key is not None and _is_public(config.tls_key):
        yield f"tls_key ({sources['tls_key']}): '{config.tls_key}' can be read by every user; chmod o-r protects it"
    if config.tls_certificate is not None:
        problem = _expiry_problem(config.tls_certificate)
        if problem:
            yield f"tls_certificate ({sources['tls_certificate']}): '{config.tls_certificate}' {problem}"


def _is_pair(certificate: Path, key: Path) -> bool:
    # A file that has changed since it was parsed is reported where the listener loads it.
    with suppress(OSError, TypeError, ValueError):
        shown = x509.load_pem_x509_certificates(certificate.read_bytes())[0].public_key()
        return load_pem_private_key(key.read_bytes(), None).public_key() == shown
    return True


def _is_public(path: Path) -> bool:
    with suppress(OSError):
        return bool(path.stat().st_mode & stat.S_IROTH)
    return False


def _expiry_problem(certificate: Path) -> str:
    with suppress(OSError, ValueError):
        not_after = x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc
        return expiry_warning(not_after, datetime.now(UTC))
    return ""


def expiry_warning(not_after: datetime, now: datetime) -> str:
    """
    Return a warning if a certificate has expired or expires within ``EXPIRES_SOON``, otherwise "".
    """
    left = not_after - now
    if left <= timedelta():
        return f"expired on {not_after:%Y-%m-%d %H:%M} UTC; clients that verify it do not connect"
    if left < EXPIRES_SOON:
        return f"expires in {left.total_seconds() / 86400:.1f} days, on {not_after:%Y-%m-%d %H:%M} UTC"
    return ""
