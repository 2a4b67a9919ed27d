"""
What the forwarder needs of those around it, and calls them.

Decides nothing: these are the shapes by which listeners, upstreams and the form of messages are handed to it.
"""

from __future__ import annotations

from typing import Any, Protocol

from dotproxy.wire.message import Peek

#: Whatever a listener needs to find its client again; its first item is the client's IP address.
Client = Any
Answers = list[tuple[bytes, Client]]


class Listener(Protocol):
    """
    Where queries come from and answers go.
    """

    @property
    def is_stream(self) -> bool:
        """
        Whether an answer of any size can be sent.
        """

    def send_answers(self, answers: Answers) -> None:
        """
        Send these; a client that is no longer there is no error.
        """


class Hop(Protocol):
    """
    What a message looks like on the other side.
    """

    def outgoing(self, query: bytes, seen: Peek) -> bytes:
        """
        Return a query as upstreams are asked it; its question stands where it stood.
        """

    def incoming(self, query: bytes, seen: Peek, reply: bytes) -> bytes:
        """
        Return an upstream's reply as the client gets it, or raise ``WireError`` if nothing can be made of it.
        """


class Upstream(Protocol):
    """
    Who can be asked.
    """

    label: str
    outcomes: Any

    @property
    def is_up(self) -> bool:
        """
        Whether it is to be preferred over those that are not.
        """

    def ask(self, questions: list[tuple[Any, bytes, int]]) -> None:
        """
        Ask; ``answered`` or ``failed`` hears of each question.
        """

    def suspect(self) -> bool:
        """
        A question asked of it is overdue; return whether asking it again is worth while.
        """
