"""
The definition of one setting, as data.

Decides the attributes of a setting, and how the names of its option and its environment variable follow from its key.
Refuses to know any particular setting: those are in ``schema`` and the modules that it joins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: A default in the schema: one value, or a tuple of values for a list.
Default = str | float | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One setting.

    ``parse`` converts one value, from TOML or from a string, and raises ``ValueError`` with a text that describes valid
    values.  ``is_list``: the setting has any number of values; a string is split at commas and spaces.  ``is_guarded``:
    the setting decides which upstreams are queried and trusted, or which clients are served.  A reload that would
    replace a configured value of it by the default is refused (``reload_refusals``).
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
        The default as a sequence of values; a sequence of one unless the setting is a list.
        """
        return self.default if isinstance(self.default, tuple) else (self.default,)

    @property
    def option(self) -> str:
        """
        The long command-line option, without the leading dashes.
        """
        return self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """
        The name of the environment variable.
        """
        return "DOTPROXY_" + self.key.upper()
