"""
The values of settings that take one of a few words and that no other room defines.

Decides their spellings, which are those of files, environment and command line.
"""

from __future__ import annotations

from enum import StrEnum


class LogFormat(StrEnum):
    """
    The form of log lines; ``AUTO`` chooses by where the log goes.
    """

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


class LogLevel(StrEnum):
    """
    The least important lines that are logged.
    """

    INFO = "info"
    DEBUG = "debug"


class QueryLogMode(StrEnum):
    """
    Whether queries are logged, and whether names and client addresses are hashed.
    """

    OFF = "off"
    HASHED = "hashed"
    CLEAR = "clear"


class TlsVersion(StrEnum):
    """
    A version of TLS.
    """

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


class UdpTruncation(StrEnum):
    """
    What a truncated response over UDP holds: the records that fit, or none.
    """

    PARTIAL = "partial"
    EMPTY = "empty"
