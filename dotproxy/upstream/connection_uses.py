"""
What each isolated connection is used for: one table.

Decides nothing; ``isolated_connections`` decides what follows what::

    IDLE ----> BUSY ----------------------+
      |          ^                        |
      |          | has replied before     | all replies came
      +----> PROVING ----> SETTLING <-----+ (its first reply)
                              |           |
                              +--> BUSY   +--> IDLE (a later one)
                              +--> IDLE

From each of them a connection may go to ENDING, and is removed when it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from dotproxy.upstream.connection import DotConnection
from dotproxy.upstream.query_groups import QueryGroup


class Phase(Enum):
    """
    What an isolated connection is used for.
    """

    IDLE = "waits for a group"
    PROVING = "was sent a probe, before its group"
    SETTLING = "has sent its first reply; its group waits in case the server closes after that"
    BUSY = "was sent its group"
    ENDING = "is used for nothing more"


class Use(NamedTuple):
    """
    A phase, and the group that has the connection, if there is one.
    """

    phase: Phase
    group: QueryGroup | None = None


class ConnectionUses:
    """
    Owns: the use of each isolated connection, until the connection is lost.
    """

    def __init__(self) -> None:
        self._uses: dict[DotConnection, Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def __iter__(self) -> Iterator[DotConnection]:
        return iter(tuple(self._uses))

    def __getitem__(self, connection: DotConnection) -> Use:
        return self._uses.get(connection, UNUSED)

    def set(self, connection: DotConnection, phase: Phase, group: QueryGroup | None = None) -> None:
        """
        Change the use of a connection; it is then the last of those in its phase.
        """
        self._uses.pop(connection, None)
        self._uses[connection] = Use(phase, group)

    def remove(self, connection: DotConnection) -> Use:
        """
        Remove a connection that is lost; return what it was used for.
        """
        return self._uses.pop(connection, UNUSED)

    def in_phase(self, phase: Phase) -> list[DotConnection]:
        """
        Return the connections in a phase, in the order in which they entered it.
        """
        return [connection for connection, use in self._uses.items() if use.phase is phase]

    def groups(self, phase: Phase) -> list[QueryGroup]:
        """
        Return the groups of the connections in a phase, in the same order.
        """
        return [use.group for use in self._uses.values() if use.phase is phase and use.group is not None]


#: The use of a connection that is not in the table.
UNUSED = Use(Phase.ENDING)
