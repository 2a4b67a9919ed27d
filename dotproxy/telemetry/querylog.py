"""
The query log, for operators who want one: a line for each response, or for some of them.

Decides what a line holds: transport, client, name, type, rcode, size, time taken, origin, the upstream's label, and the
code of an Extended DNS Error.  Names and clients are hashed under a key that is forgotten with the process, so that
lines can be told to belong together and nobody can say whose they are, unless they are asked for in clear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2s
from typing import Any, NamedTuple

from twisted.logger import Logger

from dotproxy.policy.client import Client, ClientMessage
from dotproxy.telemetry.counters import RCODES, TRANSPORTS, Origin
from dotproxy.wire.edns import ExtendedError
from dotproxy.wire.message import HEADER_SIZE, question_of
from dotproxy.wire.names import to_text
from dotproxy.wire.reply_options import ede_code_of
from dotproxy.wire.rrtypes import name_of

log = Logger("dotproxy.queries")

MODES = ("off", "hashed", "clear")

#: The columns of a line; those that begin with log_ are for text alone, where what is missing is a dash.
_LINE = "{transport} {client} {name} {type} {rcode} {octets} {duration_ms} {source} {log_upstream} {log_ede}"


class _Note(NamedTuple):
    """
    What is known of a response that is about to be sent; ``seconds`` is None for one that did not have to wait.

    It holds the response itself, so that the identity it is found by is nobody else's meanwhile.
    """

    octets: bytes
    origin: Origin
    response: Any
    upstream: str = ""
    seconds: float | None = None


class QueryLog:
    """
    ``key`` is secret; of all answers the share ``sample`` is logged, as ``chance`` has it.

    Owns: what was noted of responses until they are sent, and who joined a query that is in flight.
    """

    def __init__(self, *, is_clear: bool, sample: float, key: bytes, chance: Callable[[], float]) -> None:
        self._is_clear = is_clear
        self._sample = sample
        self._key = key
        self._chance = chance
        self._notes: dict[int, _Note] = {}
        self._joined: dict[int, float] = {}

    def announce(self) -> None:
        """
        Say that there is one: nobody should be surprised by it.
        """
        log.warn(
            "queries are logged: {share} of them, names and clients {how}",
            share=_percentage(self._sample),  # as text: a worker's event comes to the supervisor without its formats
            how="in clear" if self._is_clear else "hashed",
        )

    def note(self, octets: bytes, origin: Origin, response: Any = None) -> None:
        """
        Called for a response that did not have to wait, and is not from the cache.
        """
        self._notes[id(octets)] = _Note(octets, origin, response)

    def note_joined(self, query: bytes, seconds: float) -> None:
        """
        Called for a client that waits with a query that has been in flight for so long.
        """
        # Octets keep their identity where a tuple does not: compiled code takes tuples apart.
        self._joined[id(query)] = seconds

    def note_waited(
        self, query: bytes, octets: bytes, origin: Origin, response: Any, upstream: str, seconds: float
    ) -> None:
        """
        Called for a response to a client that waited.
        """
        before = self._joined.pop(id(query), None)
        if before is not None:
            seconds -= before
            origin = Origin.JOINED if origin is Origin.UPSTREAM else origin
        self._notes[id(octets)] = _Note(octets, origin, response, upstream, seconds)

    def log_sent(self, kind: int, answers: Sequence[ClientMessage], seconds: float) -> None:
        """
        Log these; those of which nothing was noted are from the cache.
        """
        for octets, client in answers:
            note = self._notes.pop(id(octets), None) or _Note(octets, Origin.CACHE, None)
            if self._sample >= 1 or self._chance() < self._sample:
                self._log(kind, client, note, seconds if note.seconds is None else note.seconds)

    def _log(self, kind: int, client: Client, note: _Note, seconds: float) -> None:
        octets = note.octets
        end = question_of(octets)
        name = to_text(octets[HEADER_SIZE : end - 4].lower()) if end else "-"
        qtype = octets[end - 4] << 8 | octets[end - 3] if end else 0
        ede = note.response.code if isinstance(note.response, ExtendedError) else ede_code_of(octets)
        log.info(
            _LINE,
            transport=TRANSPORTS[kind],
            client=self._redacted(client.host),
            name=self._redacted(name),
            type=name_of(qtype) if end else "-",
            qtype=qtype,
            rcode=RCODES[octets[3] & 15],
            octets=len(octets),
            duration_ms=round(seconds * 1000, 3),
            source=note.origin.value,
            upstream=note.upstream or None,
            ede=ede,
            log_upstream=note.upstream or "-",
            log_ede="-" if ede is None else ede,
        )

    def _redacted(self, text: str) -> str:
        if self._is_clear or not text:
            return text or "-"
        return blake2s(text.encode(), key=self._key, digest_size=8).hexdigest()


def _percentage(sample: float) -> str:
    return "all" if sample == 1 else f"{sample * 100:.6g} %" if sample else "none"
