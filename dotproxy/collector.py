"""
The garbage collector, told about a program that answers questions.

Decides when it looks at what.  What is alive after the start lives until the end, and is not looked at again.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """
    To be called once, when everything that stays has been made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50000, 20, 50)
