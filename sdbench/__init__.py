"""Compare ideas for speculative decoding fairly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdbench.api import custom_generate as custom_generate, decode as decode

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import the functions for Python callers when they are used first: importing torch takes seconds."""
    if name in ("decode", "custom_generate"):
        from sdbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'sdbench' has no attribute '{name}'")
