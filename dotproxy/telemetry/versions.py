"""
The versions of Python, Twisted, OpenSSL and pyOpenSSL.

Decides how a version is found.  OpenSSL is the library of cryptography's wheels, which every upstream connection uses;
Python's own ssl module can be built with another one.
"""

from __future__ import annotations

import platform


def versions() -> dict[str, str]:
    """
    Return the version of each dependency, by its name.
    """
    from OpenSSL import SSL
    from OpenSSL.version import __version__ as pyopenssl

    from twisted import __version__ as twisted

    return {
        "Python": platform.python_version(),
        "Twisted": twisted,
        "OpenSSL": openssl_version(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace")),
        "pyOpenSSL": pyopenssl,
    }


def openssl_version(text: str) -> str:
    """
    Return "3.5.4" for "OpenSSL 3.5.4 30 Sep 2025"; return the text of any other library unchanged.
    """
    name, _, rest = text.partition(" ")
    version, _, _ = rest.partition(" ")
    return version if name == "OpenSSL" and version else text
