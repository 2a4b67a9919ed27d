"""
The garbage collector, told about a program that answers questions.

Decides when it looks at what.  What is alive after the start lives until the end, and is not looked at again.  What a
query makes is gone with it, by its count of references, and there are dozens of queries at a time: to look at the young
ones every 700 objects, as is the default, finds nothing, and costs a few parts in a hundred of all that is done.  What
is kept are tuples of octets and numbers, which the collector leaves alone once it has seen them.
"""

from __future__ import annotations

import gc


def freeze() -> None:
    """
    To be called once, when everything that stays has been made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50000, 20, 50)
