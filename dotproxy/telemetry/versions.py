"""
What dotproxy stands on: the versions of Python, Twisted, OpenSSL and pyOpenSSL.

Decides how a version is found.  OpenSSL is the library that every upstream connection uses, which comes with
cryptography's wheels; the one that Python's own ssl module was built with can be another.
"""

from __future__ import annotations

import platform


def versions() -> dict[str, str]:
    """
    Return versions by the names of what they are of.
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
    Return the version in what OpenSSL says of itself, as "OpenSSL 3.5.4 30 Sep 2025"; of another library all it says.
    """
    words = text.split()
    return words[1] if len(words) > 1 and words[0] == "OpenSSL" else text
