"""
The query log, for those who want one: a line for each answer, or for some of them.

Decides what a line holds.  Names and clients are hashed under a key that is forgotten with the process, so that lines
can be told to belong together and nobody can say whose they are, unless they are asked for in clear.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s

from twisted.logger import Logger

from dotproxy.neighbours import Answers
from dotproxy.telemetry.counters import RCODES, TRANSPORTS
from dotproxy.wire.message import HEADER_SIZE, question_of
from dotproxy.wire.names import to_text

log = Logger("dotproxy.queries")

MODES = ("off", "hashed", "clear")


class QueryLog:
    """
    ``key`` is secret; of all answers the share ``sample`` is logged, as ``chance`` has it.
    """

    def __init__(self, *, is_clear: bool, sample: float, key: bytes, chance: Callable[[], float]) -> None:
        self._is_clear = is_clear
        self._sample = sample
        self._key = key
        self._chance = chance

    def announce(self) -> None:
        """
        Say that there is one: nobody should be surprised by it.
        """
        log.warn(
            "queries are logged: {share} of them, names and clients {how}",
            share=_share(self._sample),  # as text: a worker's event comes to the supervisor without its formats
            how="in clear" if self._is_clear else "hashed",
        )

    def answered(self, kind: int, answers: Answers) -> None:
        """
        These were answered, over a transport.
        """
        for octets, client in answers:
            if self._sample < 1 and self._chance() >= self._sample:
                continue
            end = question_of(octets)
            name = to_text(octets[HEADER_SIZE : end - 4].lower()) if end else "-"
            log.info(
                "{transport} {client} {name} {qtype} {rcode} {octets}",
                transport=TRANSPORTS[kind],
                client=self._shown(str(client[0])),
                name=self._shown(name),
                qtype=octets[end - 4] << 8 | octets[end - 3] if end else 0,
                rcode=RCODES[octets[3] & 15],
                octets=len(octets),
            )

    def _shown(self, text: str) -> str:
        if self._is_clear or not text:
            return text or "-"
        return blake2s(text.encode(), key=self._key, digest_size=8).hexdigest()


def _share(sample: float) -> str:
    return "all" if sample == 1 else f"{sample * 100:.6g} %" if sample else "none"
