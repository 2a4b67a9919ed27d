"""
One setting, as data.

Decides what there is to know of a setting, and how its names are derived from its key.  Knows no setting in
particular: ``schema`` and ``operation`` have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: A default as the schema has it: one value, or a tuple of them for a list.
Default = str | float | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One setting.

    ``parse`` takes one value as TOML or a string has it and raises ``ValueError`` that says what would be
    right.  ``is_list``: it takes any number of values; as a string they are split at commas and spaces.
    ``is_guarded``: it decides who is asked, believed or served; a reload in which a value that was given would be
    replaced by the default is refused (``reload_refusals``).
    """

    key: str
    default: Default
    parse: Callable[[object], object]
    metavar: str
    help: str
    short: str | None = None
    is_list: bool = False
    is_guarded: bool = False

    @property
    def defaults(self) -> Sequence[object]:
        """
        The default as a sequence of values, one of them unless the setting is a list.
        """
        return self.default if isinstance(self.default, tuple) else (self.default,)

    @property
    def option(self) -> str:
        """
        The long command-line option, without dashes.
        """
        return self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """
        The environment variable.
        """
        return "DOTPROXY_" + self.key.upper()
