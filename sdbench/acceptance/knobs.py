"""Checks of the rules' knobs: a bad value is refused when the rule is made, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from sdbench.errors import InputError


def number(knob: str, value: float, low: float, high: float = inf, bounds: str = "[]") -> float:
    """value, if it is a finite number between low and high; bounds says which ends are allowed: "[)" is [low, high)."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < inf and low <= value <= high
    if not fits or (bounds[0] == "(" and value == low) or (bounds[1] == ")" and value == high):
        left, right = "(" if low == -inf else bounds[0], ")" if high == inf else bounds[1]
        raise InputError(f"{knob} is {value!r}; it must be a number in {left}{low}, {high}{right}.")
    return value


def count(knob: str, value: int) -> int:
    """value, if it is a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{knob} is {value!r}; it must be a positive whole number.")
    return value


def choice(knob: str, value: str, options: Iterable[str]) -> str:
    """value, if it is one of the options."""
    options = list(options)
    if value not in options:
        raise InputError(f"{knob} is {value!r}; it must be one of {', '.join(options)}.")
    return value


def switch(knob: str, value: bool) -> bool:
    """value, if it is true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{knob} is {value!r}; it must be true or false.")
    return value
