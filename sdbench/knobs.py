"""Checks of single values from configs: what is wrong, and what would be right, in one sentence."""

from __future__ import annotations

from typing import Any

from sdbench.errors import InputError


def whole(name: str, value: Any, least: int = 0) -> None:
    """Refuse what is no whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}.")


def switch(name: str, value: Any) -> None:
    """Refuse what is neither true nor false: Hydra reads `no` and `off` as words."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it must be true or false.")


def number(name: str, value: Any) -> None:
    """Refuse what is no number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; it must be a number.")


def between(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number strictly between the two."""
    number(name, value)
    if not low < value < high:
        raise InputError(f"{name} is {value}; it must lie between {low:g} and {high:g}, both excluded.")
