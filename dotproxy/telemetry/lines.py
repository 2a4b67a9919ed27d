"""
The form of log lines: text for a person, JSON for a program, text with priorities for journald.

Decides how an event is written, and which form suits where it goes.  Control characters and line breaks in what a
message is made of are escaped: a line is one event, whatever the network sent.  What is logged over and over is limited
(``log_limit``).  What Twisted logs about itself (reactor class,
factories and ports that start and stop) is left out, unless it is a warning or an error.  Each function makes an
observer, as twistd's ``--logger`` wants it: ``twistd --logger dotproxy.telemetry.lines.as_json dotproxy``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    PredicateResult,
    formatEvent,
    formatEventAsClassicLogText,
    formatTime,
)

from dotproxy.telemetry.log_limit import LogLimit
from dotproxy.wire.printable import printable, printable_lines

FORMATS = ("auto", "text", "json", "journal")

#: sd-daemon(3).
_PRIORITIES = {LogLevel.debug: 7, LogLevel.info: 6, LogLevel.warn: 4, LogLevel.error: 3, LogLevel.critical: 2}

#: Whose events are Twisted's; ``log_legacy`` is what its older half logs by ``twisted.python.log``.
_TWISTED = ("twisted.", "log_legacy")

#: What every event has, and what is said otherwise.
_OURS = ("time", "level", "namespace", "message")


def as_text(out: TextIO = sys.stdout) -> Callable[[LogEvent], None]:
    """
    Lines with date, level and text.
    """
    return _filtered(FileLogObserver(out, _with_date))


def as_json(out: TextIO = sys.stdout) -> Callable[[LogEvent], None]:
    """
    A JSON object a line: ``time``, ``level``, ``namespace``, ``message``, and what the message is made of.
    """
    return _filtered(FileLogObserver(out, lambda event: json.dumps(_as_dict(event), ensure_ascii=False) + "\n"))


def for_journal(out: TextIO = sys.stdout) -> Callable[[LogEvent], None]:
    """
    Lines that begin with their priority; journald knows the time.
    """
    return _filtered(FileLogObserver(out, _with_priority))


def auto(out: TextIO = sys.stdout, environ: Any = os.environ) -> Callable[[LogEvent], None]:
    """
    Text on a terminal, priorities for the journal, JSON for whatever else there is.
    """
    return CHOICES[suitable_format(out, environ)](out)


def suitable_format(out: TextIO, environ: Any) -> str:
    """
    Return which of ``FORMATS`` suits where lines go.
    """
    if out.isatty():
        return "text"
    try:
        where = os.fstat(out.fileno())
        is_journal = environ.get("JOURNAL_STREAM") == f"{where.st_dev}:{where.st_ino}"
    except (OSError, ValueError):  # no file at all
        is_journal = False
    return "journal" if is_journal else "json"


CHOICES: dict[str, Callable[..., Callable[[LogEvent], None]]] = {
    "auto": auto,
    "text": as_text,
    "json": as_json,
    "journal": for_journal,
}


def is_twisted_news(event: LogEvent) -> bool:
    """
    Return whether an event is Twisted's, and neither a warning nor an error.
    """
    namespace = str(event.get("log_namespace", ""))
    level = event.get("log_level", LogLevel.info)
    return namespace.startswith(_TWISTED) and (level is None or level <= LogLevel.info)


def _filtered(observer: Callable[[LogEvent], None]) -> Callable[[LogEvent], None]:
    """
    Leave out what Twisted tells of itself, and what is too much.
    """

    def judge(event: LogEvent) -> Any:
        return PredicateResult.no if is_twisted_news(event) else PredicateResult.maybe

    limited = cast(ILogObserver, LogLimit(observer))
    return FilteringLogObserver(limited, [cast(ILogFilterPredicate, judge)])


def _message(event: LogEvent) -> str:
    """
    Return an event's text, and below it, indented, the traceback if there is one.
    """
    text = formatEvent(event)
    is_of_one_line = "\n" not in str(event.get("log_format", ""))
    text = printable(text) if is_of_one_line else printable_lines(text)
    failure = event.get("log_failure")
    if failure is None:
        return text
    return "\n  ".join([text, *map(printable_lines, failure.getTraceback().splitlines())])


def _with_date(event: LogEvent) -> str | None:
    whole = {key: event.get(key) for key in ("log_time", "log_namespace", "log_level", "log_system")}
    whole = {key: value for key, value in whole.items() if value is not None}
    return formatEventAsClassicLogText({**whole, "log_format": "{text}", "text": _message(event)}, formatTime)


def _as_dict(event: LogEvent) -> dict[str, Any]:
    level = event.get("log_level")
    plain: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level else "info",
        "namespace": event.get("log_namespace", ""),
        "message": _message(event),
    }
    if str(plain["namespace"]).startswith("dotproxy"):
        plain |= {
            key: printable(value) if isinstance(value, str) else value
            for key, value in event.items()
            if not key.startswith("log_") and key not in _OURS and isinstance(value, str | int | float | bool)
        }
    return plain


def _with_priority(event: LogEvent) -> str:
    priority = _PRIORITIES.get(event.get("log_level", LogLevel.info), 6)
    return "".join(f"<{priority}>{line}\n" for line in _message(event).splitlines())
