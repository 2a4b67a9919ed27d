"""
The format of log lines: text, JSON, or text with priorities for journald.

Decides how an event is written, and which format suits an output.  Control characters and line breaks in the parts of a
message are escaped, so that a line is one event whatever the network sent.  Repeated events are limited
(``log_limit``).  Twisted's events about itself (reactor class, factories and ports that start and stop) are left out,
unless they are warnings or errors.  Each public function returns an observer, as twistd's ``--logger`` needs it:
``twistd --logger dotproxy.telemetry.lines.as_json dotproxy``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
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

#: Priorities of journald, sd-daemon(3).
_PRIORITIES = {LogLevel.debug: 7, LogLevel.info: 6, LogLevel.warn: 4, LogLevel.error: 3, LogLevel.critical: 2}

#: Namespaces of Twisted's events; ``log_legacy`` is that of ``twisted.python.log``.
_TWISTED = ("twisted.", "log_legacy")

#: Keys of the JSON object that an event's own keys do not replace.
_OURS = ("time", "level", "namespace", "message")


def as_text(out: TextIO = sys.stdout) -> Callable[[LogEvent], None]:
    """
    Return an observer that writes lines with date, level and text.
    """
    return _filtered(FileLogObserver(out, _with_date))


def as_json(out: TextIO = sys.stdout) -> Callable[[LogEvent], None]:
    """
    Return an observer that writes a JSON object a line: ``time``, ``level``, ``namespace``, ``message`` and its parts.
    """
    return _filtered(FileLogObserver(out, lambda event: json.dumps(_as_dict(event), ensure_ascii=False) + "\n"))


def for_journal(out: TextIO = sys.stdout) -> Callable[[LogEvent], None]:
    """
    Return an observer that writes lines with their priority first; journald adds the time.
    """
    return _filtered(FileLogObserver(out, _with_priority))


def auto(out: TextIO = sys.stdout, environ: Mapping[str, str] = os.environ) -> Callable[[LogEvent], None]:
    """
    Return an observer that writes text to a terminal, lines with priorities to journald, JSON to anything else.
    """
    return CHOICES[suitable_format(out, environ)](out)


def suitable_format(out: TextIO, environ: Mapping[str, str]) -> str:
    """
    Return the one of ``FORMATS`` for an output.
    """
    if out.isatty():
        return "text"
    try:
        where = os.fstat(out.fileno())
        is_journal = environ.get("JOURNAL_STREAM") == f"{where.st_dev}:{where.st_ino}"
    except (OSError, ValueError):  # it is no file
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
    Return ``observer`` behind a filter of Twisted's own news and the limit of repeated events.
    """

    def judge(event: LogEvent) -> Any:  # a NamedConstant of constantly, which has no types
        return PredicateResult.no if is_twisted_news(event) else PredicateResult.maybe

    limited = cast(ILogObserver, LogLimit(observer))
    return FilteringLogObserver(limited, [cast(ILogFilterPredicate, judge)])


def _message(event: LogEvent) -> str:
    """
    Return the text of an event, with the traceback indented below it if there is one.
    """
    text = formatEvent(event)
    is_of_one_line = "\n" not in str(event.get("log_format", ""))
    text = printable(text) if is_of_one_line else printable_lines(text)
    failure = event.get("log_failure")
    if failure is None:
        return text
    return "\n  ".join([text, *map(printable_lines, failure.getTraceback().splitlines())])


def _with_date(event: LogEvent) -> str | None:
    fields = {key: event.get(key) for key in ("log_time", "log_namespace", "log_level", "log_system")}
    fields = {key: value for key, value in fields.items() if value is not None}
    return formatEventAsClassicLogText({**fields, "log_format": "{text}", "text": _message(event)}, formatTime)


def _as_dict(event: LogEvent) -> dict[str, str | int | float | None]:
    """
    Return an event as data for JSON.
    """
    level = event.get("log_level")
    data: dict[str, str | int | float | None] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level else "info",
        "namespace": event.get("log_namespace", ""),
        "message": _message(event),
    }
    if str(data["namespace"]).startswith("dotproxy"):
        data |= {
            key: printable(value) if isinstance(value, str) else value
            for key, value in event.items()
            if not key.startswith("log_") and key not in _OURS and isinstance(value, str | int | float | bool)
        }
    return data


def _with_priority(event: LogEvent) -> str:
    priority = _PRIORITIES.get(event.get("log_level", LogLevel.info), 6)
    return "".join(f"<{priority}>{line}\n" for line in _message(event).splitlines())
