"""
When the questions for one upstream are shared among more connections.

Decides whether another is worth dialling.  One is enough for a server that works on many questions at once; some
answer one after the other, and there questions wait for each other.
"""

from __future__ import annotations

#: So many connections share at most; and so many questions have to be outstanding, or there is nothing to share.
MOST = 4
_MANY = 8

#: An answer that took less is no burden, in seconds; nor is one of about what a dial takes, for that is the distance.
_SLOW = 0.1
_DISTANCE = 2.0


def wants_another(took: float, dial: float, outstanding: int, standing: int) -> bool:
    """
    Whether another connection is worth while, when an answer and a dial take so long, in seconds, and so many
    questions are outstanding on so many connections.
    """
    return standing < MOST and outstanding >= _MANY * standing and took > max(_SLOW, _DISTANCE * dial)
