"""
Enums for settings with a fixed set of values, unless another package defines the enum.

Decides the spelling of the values in files, environment variables and options.
"""

from __future__ import annotations

from enum import StrEnum


class LogFormat(StrEnum):
    """
    The format of log lines; ``AUTO`` depends on where the log is written.
    """

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


class LogLevel(StrEnum):
    """
    The minimum level of logged lines.
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
