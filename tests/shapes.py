"""Check shape annotations while tests run; `tests/conftest.py` installs the check.

jaxtyping calls `check` for each function of sdbench. beartype then checks the arguments and results that carry a shape annotation,
such as Float[Tensor, "B V"]. Other annotations are pyright's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])
SHAPED = ("Float[", "Int[", "Bool[", "UInt8[", "Shaped[")


def check(function: F) -> F:
    """Check the annotations of `function` that state a shape."""
    notes = getattr(function, "__annotations__", {})
    shaped = {name: note for name, note in notes.items() if any(kind in str(note) for kind in SHAPED)}
    if not shaped:
        return function
    function.__annotations__ = shaped
    return beartype(function)
