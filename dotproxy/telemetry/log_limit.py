"""
A rate limit for repeated log events.

Decides how many events of one kind are logged a minute; the rest are counted.  A kind is a namespace and a format
string, that is a place in the code, so that no client and no upstream can make new kinds.  The query log has a limit a
second instead; on a busy server ``query_log_sample`` is the better limit.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import LogEvent, LogLevel

#: Seconds for which events are counted.
WINDOW = 60.0

#: Events of one kind logged in a window, and those of them with a traceback.
LINES = 100
TRACEBACKS = 5

#: Lines of the query log a second.
QUERY_LINES = 5000

#: Kinds with a limit of their own; further kinds share one.
_KINDS = 500

_QUERIES = "dotproxy.queries"


class LogLimit:
    """
    A log observer that passes events on to another one, up to a limit.

    Owns: the number of events of each kind in this window, by the events' own time.
    """

    def __init__(self, observer: Callable[[LogEvent], None]) -> None:
        self._observer = observer
        self._ends = 0.0
        self._counts: dict[tuple[str, str], int] = {}
        self._left_out: dict[tuple[str, str], int] = {}
        self._second = 0.0
        self._queries = 0

    def __call__(self, event: LogEvent) -> None:
        """
        Pass an event on, or count it.
        """
        namespace = str(event.get("log_namespace", ""))
        now = float(event.get("log_time", 0.0))
        if namespace == _QUERIES:
            self._log_query(event, now)
            return
        if not self._ends - WINDOW <= now < self._ends:  # the window is over, or the clock was set back
            self._begin(now)
        kind = namespace, str(event.get("log_format"))
        if kind not in self._counts and len(self._counts) >= _KINDS:
            kind = "", ""
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= (LINES if event.get("log_failure") is None else TRACEBACKS):
            self._observer(event)
        else:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1

    def _log_query(self, event: LogEvent, now: float) -> None:
        if not self._second <= now < self._second + 1:
            more = self._queries - QUERY_LINES
            self._second, self._queries = now, 0
            if more > 0:
                self._tell(now, "dotproxy", "{count} responses more were not logged: there were too many", count=more)
        self._queries += 1
        if self._queries <= QUERY_LINES:
            self._observer(event)

    def _tell(self, now: float, namespace: str, text: str, **more: object) -> None:
        self._observer(
            {"log_time": now, "log_level": LogLevel.warn, "log_namespace": namespace, "log_format": text, **more}
        )

    def _begin(self, now: float) -> None:
        """
        Begin a window, and log how many events were left out in the last one.
        """
        left_out = self._left_out
        self._ends = now + WINDOW
        self._counts, self._left_out = {}, {}
        for (namespace, kind), count in left_out.items():
            text = "{count} more events like this were not logged: {kind}"
            self._tell(now, namespace or "dotproxy", text, count=count, kind=kind)
