"""
dotproxy: plain DNS in, DNS over TLS out.

``DoTResolver`` is the library's face; it is imported when it is first used, so that ``import dotproxy``
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotproxy.resolver import DoTResolver

__all__ = ["DoTResolver", "__version__"]

#: The package's metadata has it from here; to ask them would take longer than all else that is imported.
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "DoTResolver":
        from dotproxy.resolver import DoTResolver

        return DoTResolver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
