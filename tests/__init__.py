"""
The tests.  Hypothesis runs the same examples each time, and is not told off by a slow machine.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "dotproxy", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dotproxy")
