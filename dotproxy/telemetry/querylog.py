"""
The query log: a line for each response, or for a sample of them.  It is off by default.

Decides what a line has: transport, client, name, type, rcode, size, duration, origin, the upstream's label, and the
code of an Extended DNS Error.  Names and clients are hashed with a key of this process, so that lines of one client can
be related and the client cannot be identified; with ``clear`` they are not hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2s
from typing import NamedTuple

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

#: The columns of a line; those that begin with log_ are for text only, where a missing value is a dash.
_LINE = "{transport} {client} {name} {type} {rcode} {octets} {duration_ms} {source} {log_upstream} {log_ede}"


class _Note(NamedTuple):
    """
    A note on a response that is about to be sent; ``seconds`` is None for one that its client did not wait for.

    ``octets`` keeps the response alive: notes are found by its ``id()``, which no other object can have meanwhile.
    ``response`` is what the octets were built from.
    """

    octets: bytes
    origin: Origin
    response: object
    upstream: str = ""
    seconds: float | None = None


class QueryLog:
    """
    Logs responses.  ``key`` is the secret of the hash; ``sample`` is the fraction of responses logged, drawn with
    ``chance``, which returns 0.0 to 1.0.

    Owns: notes on responses until they are sent, and the clients that joined a query in flight.
    Told by: the forwarder's ``Delivery``.
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
        Log that queries are logged, so that no operator overlooks it.
        """
        log.warn(
            "queries are logged: {share} of them, names and clients {how}",
            share=_percentage(self._sample),  # as text: a worker's event comes to the supervisor without its formats
            how="in clear" if self._is_clear else "hashed",
        )

    def note(self, octets: bytes, origin: Origin, response: object = None) -> None:
        """
        Note the origin of a response that its client did not wait for; without a note it is a cache hit.
        """
        self._notes[id(octets)] = _Note(octets, origin, response)

    def note_joined(self, query: bytes, seconds: float) -> None:
        """
        Note a client that joined a query which had been in flight for ``seconds``.
        """
        # The identity of octets is stable; compiled code unpacks tuples and makes new ones.
        self._joined[id(query)] = seconds

    def note_waited(
        self, query: bytes, octets: bytes, origin: Origin, response: object, upstream: str, seconds: float
    ) -> None:
        """
        Note a response to a client that waited, ``seconds`` after the query was first sent.
        """
        joined_after = self._joined.pop(id(query), None)
        if joined_after is not None:
            seconds -= joined_after
            origin = Origin.JOINED if origin is Origin.UPSTREAM else origin
        self._notes[id(octets)] = _Note(octets, origin, response, upstream, seconds)

    def log_sent(self, kind: int, answers: Sequence[ClientMessage], seconds: float) -> None:
        """
        Log responses of a listener; those without a note are cache hits and took ``seconds``.
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
