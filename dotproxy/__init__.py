"""
dotproxy: plain DNS in, DNS over TLS out.

``DoTResolver`` is the library's interface; it is imported at its first use, so that ``import dotproxy`` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dotproxy.resolver import DoTResolver

__all__ = ["DoTResolver", "__version__"]

#: The package metadata has it from here; reading the metadata would take longer than the import.
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "DoTResolver":
        from dotproxy.resolver import DoTResolver

        return DoTResolver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
