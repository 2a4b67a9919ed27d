"""
The operator's view of a running proxy: how it is, and what can be done about it.

Decides what is shown, and what may be asked for.  How it is served is ``telemetry.web``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dotproxy import __version__
from dotproxy.errors import ConfigError, WireError
from dotproxy.policy.answers import AnswerCache
from dotproxy.proxy import Proxy
from dotproxy.telemetry.counters import Counters
from dotproxy.telemetry.events import Events
from dotproxy.telemetry.logs import LoggedEvents
from dotproxy.telemetry.metrics import Sources, UpstreamSource, versions
from dotproxy.wire.names import from_text

_STATES = ("up", "slow", "down")


class Status:
    """
    What is known of a proxy at this moment.
    """

    def __init__(self, proxy: Proxy, cache: AnswerCache | None, now: Callable[[], float] = time.monotonic) -> None:
        self._proxy = proxy
        self._cache = cache
        self._now = now
        self._began = now()

    def sources(self) -> Sources:
        """
        Return where metrics come from.
        """
        proxy = self._proxy
        return Sources(
            counters=proxy.forwarder.counted,
            outstanding=lambda: proxy.forwarder.outstanding,
            cache=self._cache_figures,
            upstreams=self._upstream_sources,
            tcp_clients=lambda: len(proxy.factory.connections),
            udp_errors=lambda: sum(port.errors for port in proxy.datagram_ports),
            is_ready=lambda: not self.not_ready(),
            versions=versions(__version__),
        )

    def not_ready(self) -> str:
        """
        Return why clients cannot expect answers, "" if they can: an upstream is usable, or there is something stale.
        """
        if self._proxy.is_draining:
            return "it is stopping"
        if self._proxy.forwarder.asking.roster.is_anyone_up:
            return ""
        if self._cache is not None and self._proxy.config.serve_stale and len(self._cache):
            return ""
        return "every upstream is down"

    def shown(self) -> dict[str, Any]:
        """
        Return all of it, to be shown.
        """
        counters = self._proxy.forwarder.counted()
        entries, octets, evicted = self._cache_figures()
        return {
            "version": __version__,
            "seconds": round(self._now() - self._began),
            "ready": not self.not_ready(),
            "listening": [f"{host} {port}" for host, port in self._proxy.addresses],
            "outstanding": self._proxy.forwarder.outstanding,
            "answers": sum(counters.answers),
            "cache": {
                "entries": entries,
                "octets": octets,
                "evicted": evicted,
                "hit_rate": _hit_rate(counters),
                **{name: getattr(counters, name) for name in ("memo", "fresh", "stale", "joined", "missed")},
            },
            "upstreams": [self._shown(upstream) for upstream in self._proxy.forwarder.asking.roster.asked],
        }

    def _shown(self, upstream: Any) -> dict[str, Any]:
        counters = upstream.counters
        handshakes = sum(counters.full.counts), sum(counters.resumed.counts)
        return {
            "name": upstream.label,
            "state": _STATES[upstream.tier],
            "outstanding": upstream.outstanding,
            "answers": sum(counters.answers),
            "failures": counters.answers[2] + counters.answers[5],
            "p50_ms": _milliseconds(upstream.latency.p50),
            "p95_ms": _milliseconds(upstream.latency.p95),
            "connections_opened": counters.opened,
            "resumed": round(handshakes[1] / sum(handshakes), 3) if sum(handshakes) else None,
            "retries": counters.retries,
            "hedges": counters.hedges,
            "stalls": counters.stalls,
        }

    def _cache_figures(self) -> tuple[int, int, int]:
        return (0, 0, 0) if self._cache is None else (len(self._cache), self._cache.octets, self._cache.evicted)

    def _upstream_sources(self) -> list[UpstreamSource]:
        everybody: list[Any] = self._proxy.forwarder.asking.roster.asked
        return [
            UpstreamSource(one.label, one.counters, lambda one=one: one.tier, lambda one=one: one.outstanding)  # type: ignore[misc]
            for one in everybody
        ]


class Commands:
    """
    What can be done; each takes arguments as text and returns what is answered, or raises ``ValueError``.
    """

    def __init__(self, proxy: Proxy, cache: AnswerCache | None, events: Events, stop: Callable[[], None]) -> None:
        self._proxy = proxy
        self._cache = cache
        self._events = events
        self._stop = stop

    def all(self) -> dict[str, Callable[[dict[str, str]], Any]]:
        """
        Return them by name.
        """
        return {"flush": self.flush, "reload": self.reload, "log": self.log, "drain": self.drain}

    def flush(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Forget answers: all, those to ``name``, or, with ``subtree``, those below it too.
        """
        if self._cache is None:
            raise ValueError("there is no cache")
        text = given.get("name", "")
        try:
            name = from_text(text if text.endswith(".") else text + ".") if text else b""
        except WireError as error:
            raise ValueError(error.reason) from None
        if not name:
            flushed = self._cache.flush()
        elif given.get("subtree"):
            flushed = self._cache.flush_subtree(name)
        else:
            flushed = self._cache.flush_name(name)
        self._proxy.forwarder.flushed()
        return {"flushed": flushed}

    def reload(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Read the configuration again.
        """
        try:
            return {"changes": self._proxy.reload()}
        except ConfigError as error:
            raise ValueError("; ".join(error.problems)) from None

    def log(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Log at another ``level``.
        """
        level = given.get("level", "")
        if level not in ("info", "debug"):
            raise ValueError(f"{level!r} is no level; there are info and debug")
        if not isinstance(self._events, LoggedEvents):
            raise ValueError("nothing is logged here")
        self._events.debug = level == "debug"
        return {"level": level}

    def drain(self, given: dict[str, str]) -> dict[str, Any]:
        """
        Stop, after answering what is outstanding.
        """
        self._stop()
        return {"draining": True}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _hit_rate(counters: Counters) -> float | None:
    hits = counters.memo + counters.fresh + counters.stale
    total = hits + counters.joined + counters.missed + counters.failed_before
    return round(hits / total, 4) if total else None
