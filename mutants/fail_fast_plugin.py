"""
A pytest plugin for runs on mutated code: that a property fails is enough, hypothesis need not find a smaller example.
"""

import pytest
from hypothesis import Phase, settings

#: Where hypothesis keeps the settings of a test; there is no public way to change them after @given.
_SETTINGS = "_hypothesis_internal_use_settings"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Take the shrinking out of each property.
    """
    for item in items:
        test = getattr(item, "obj", None)
        function = getattr(test, "__func__", test)
        given = getattr(function, _SETTINGS, None)
        if given is not None:
            setattr(function, _SETTINGS, settings(given, phases=(Phase.explicit, Phase.generate), database=None))
