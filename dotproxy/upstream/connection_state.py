"""
The states of a connection to an upstream, and which may follow which.

Decides whether a change of state is allowed.  What causes a change is decided by the connection itself (idleness, the
upstream's keepalive option) and by its pool (silence, age, limits).

::

    DIALLING
       | verified
       v      probe sent
     READY ---------------> SUSPECT
       |   <---------------    |
       |       any reply       |
       |                       |
       +-----------+-----------+
       |           |           |
       | replaced  | silent    | closed or cut here
       v           v           v
    DRAINING --> RETIRED    CLOSING
       |           |           ^
       +-----------|-----------+
                   |
    CLOSED  <------+------ from every state, when the transport is gone

READY and SUSPECT take queries.  A DRAINING connection gets no more of them, and its queries wait for their replies.
A RETIRED one has handed its queries back; a late reply still counts.  Both are closed after the last reply, and cut
if it does not come in time.  RETIRED lasts until the connection is gone: its queries must not be handed back twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Protocol


class ConnectionState(IntEnum):
    """
    What a connection is used for; those before ``DRAINING`` take queries.
    """

    DIALLING = 0
    READY = 1
    SUSPECT = 2
    DRAINING = 3
    RETIRED = 4
    CLOSING = 5
    CLOSED = 6


DIALLING, READY, SUSPECT, DRAINING, RETIRED, CLOSING, CLOSED = ConnectionState

#: The states that may follow each.
TRANSITIONS: dict[ConnectionState, frozenset[ConnectionState]] = {
    DIALLING: frozenset({READY, CLOSED}),
    READY: frozenset({SUSPECT, DRAINING, RETIRED, CLOSING, CLOSED}),
    SUSPECT: frozenset({READY, DRAINING, RETIRED, CLOSING, CLOSED}),
    DRAINING: frozenset({RETIRED, CLOSING, CLOSED}),
    RETIRED: frozenset({CLOSED}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}


class ForbiddenTransition(AssertionError):
    """
    A change of state that the table does not have: a defect of the caller.
    """


def follow(state: ConnectionState, following: ConnectionState) -> ConnectionState:
    """
    Return ``following``, the state that a connection in ``state`` changes to.

    :raises ForbiddenTransition: if the table does not have it.
    """
    if following not in TRANSITIONS[state]:
        raise ForbiddenTransition(f"a connection that is {state.name} cannot become {following.name}")
    return following


class Stated(Protocol):
    """
    A connection, as far as a summary is concerned.
    """

    @property
    def state(self) -> ConnectionState:
        """
        The state it is in.
        """

    @property
    def outstanding(self) -> int:
        """
        The number of its queries without a reply.
        """


def summary(connections: Iterable[Stated], dials: int = 0) -> str:
    """
    Return how many connections are in each state, and their queries in flight: ``1 ready (3 in flight), 1 draining``.
    """
    counts = dict.fromkeys(ConnectionState, 0)
    in_flight = dict.fromkeys(ConnectionState, 0)
    counts[DIALLING] = dials
    for connection in connections:
        counts[connection.state] += 1
        in_flight[connection.state] += connection.outstanding
    parts = [
        f"{count} {state.name.lower()}" + (f" ({in_flight[state]} in flight)" if in_flight[state] else "")
        for state, count in counts.items()
        if count
    ]
    return ", ".join(parts) or "no connection"
