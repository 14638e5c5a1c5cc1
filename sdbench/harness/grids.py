"""Replace an arm that has a `grid` by one arm for each point of the grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from sdbench.errors import InputError
from sdbench.harness.simulated_acceptance import forced


def expand_grids(arms: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arms with each grid expanded and each `forced_acceptance` turned into a rule.

    The name of a point is `arm[knob=value,...]`. Raises: InputError.
    """
    expanded: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        arm = deepcopy(dict(arm))
        grid = arm.pop("grid", None)
        if grid is not None and not isinstance(grid, Mapping):
            raise InputError(f"arms.{name}.grid names no knob: write arms.{name}.grid.KNOB=[...].")
        axes = list(_leaves(grid or {}))
        for knob, values in axes:
            if not isinstance(values, list) or not values:
                raise InputError(f"arms.{name}.grid.{knob} must be a list of values, such as [1,2,4].")
        for point in itertools.product(*(values for _, values in axes)):
            member = deepcopy(arm)
            for (knob, _), value in zip(axes, point, strict=True):
                _set(member, knob, value, name)
            label = ",".join(f"{knob}={value}" for (knob, _), value in zip(axes, point, strict=True))
            expanded[f"{name}[{label}]" if label else name] = forced(member, name)
    return expanded


def _leaves(grid: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return each knob of a nested grid by its dotted path, with its values."""
    for key, value in grid.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _set(arm: dict[str, Any], knob: str, value: Any, name: str) -> None:
    """Set the knob at a dotted path of an arm's config, in place. name: of the arm. Raises: InputError."""
    *path, last = knob.split(".")
    node: Any = arm
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise InputError(f"arms.{name}.grid.{knob}: the arm has no such knob.")
    node[last] = value
