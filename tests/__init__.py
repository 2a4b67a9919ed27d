"""
The tests.  Hypothesis runs the same examples each time, and accepts slow machines.

TEST_EFFORT says how much is tried: ``quick`` in ``make unit``, ``usual`` by default and in ``make test``, ``soak``, with
ten times as many examples, in ``make soak``.
"""

import os

from hypothesis import HealthCheck, settings

EFFORT = os.environ.get("TEST_EFFORT", "usual")

for name, examples in (("quick", 20), ("usual", 100), ("soak", 1000)):
    settings.register_profile(
        name, deadline=None, derandomize=True, max_examples=examples, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile(EFFORT)


def rounds(usual: int, *, quick: int) -> int:
    """
    Return how often a long loop is to be run.
    """
    return quick if EFFORT == "quick" else usual
