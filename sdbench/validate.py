"""Check single values of a config. Each function returns the value, or raises InputError with one sentence.

The sentence names the value, says what is wrong with it and what would be right. Constructors call these checks, so a bad value is
refused before any weight is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any

from sdbench.errors import InputError


def whole(name: str, value: Any, least: int = 0) -> int:
    """Check that `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    return value


def switch(name: str, value: Any) -> bool:
    """Check that `value` is true or false. Hydra reads `no` and `off` as words, so these are refused."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it must be true or false.")
    return value


def number(name: str, value: Any, low: float = -inf, high: float = inf, bounds: str = "[]") -> float:
    """Check that `value` is a finite number from `low` to `high`.

    bounds: which ends are allowed; "[)" is [low, high).
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        kind = "a number" if (low, high) == (-inf, inf) else f"a number in {_interval(low, high, bounds)}"
        raise InputError(f"{name} is {value!r}; it must be {kind}.")
    inside = abs(value) < inf and low <= value <= high
    if not inside or (bounds[0] == "(" and value == low) or (bounds[1] == ")" and value == high):
        raise InputError(f"{name} is {value!r}; it must be a number in {_interval(low, high, bounds)}.")
    return value


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Check that `value` is one of `options`."""
    options = list(options)
    if value not in options:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(options)}.")
    return value


def _interval(low: float, high: float, bounds: str) -> str:
    """Write the interval; an infinite end is open."""
    return f"{'(' if low == -inf else bounds[0]}{low:g}, {high:g}{')' if high == inf else bounds[1]}"
