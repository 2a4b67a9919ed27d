"""
dotproxy: plain DNS in, DNS over TLS out.

``DoTResolver`` is the library's face; it is imported when it is first used, so that ``import dotproxy``
costs nothing.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotproxy.library import DoTResolver

__all__ = ["DoTResolver", "__version__"]

try:
    __version__ = version("dotproxy")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "DoTResolver":
        from dotproxy.library import DoTResolver

        return DoTResolver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
