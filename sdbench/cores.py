"""Which cores this process and its children run on. Where the system has no such thing (macOS), nothing is pinned."""

from __future__ import annotations

import os
from functools import cache


@cache
def usable() -> tuple[int, ...]:
    """The cores that this process might use when this was first asked: before anything was pinned."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def pin(cores: tuple[int, ...]) -> None:
    """Run this process on these cores only; with none given, or where that cannot be done, leave it."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
