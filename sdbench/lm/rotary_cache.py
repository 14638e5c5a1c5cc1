"""What a module says of positions alone, as a rotary embedding does of its angles, looked up in place of being computed.

Such a module has no weights, takes of hidden states their type only, and gives tensors with a row for each position. That the rows
of the table are the very numbers of the module is tried, not believed. A module that turns to other angles when texts become longer
(dynamic scaling) shows it when the table is made or grows: rows differ from those of shorter texts. Then it is called as ever.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import embedding


class Table:
    """The results of a module for all positions below `size`. args, kwargs: of one of its calls, `positions` among them."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], positions: Tensor) -> None:
        self.module, self.size = module, 0
        self._device = positions.device
        self._args = [_sample(one, positions) for one in args]
        self._kwargs = {name: _sample(one, positions) for name, one in kwargs.items()}
        self._rows: list[Tensor] | None = []

    def grow(self, size: int) -> None:
        """Hold at least the results for positions below `size`."""
        if size <= self.size or self._rows is None:
            return
        # Of a copy: a module may keep in mind the longest text that it has seen. Texts of all lengths must give the same rows.
        module, every = copy.deepcopy(self.module), torch.arange(size, device=self._device)[None]
        lengths = [*(1 << power for power in range(size.bit_length()) if 1 << power < size), size]
        *shorter, whole = [[part[0] for part in self._made(module, every[:, :length])] for length in lengths]
        same = all(
            torch.equal(part, row[: len(part)]) for made in shorter for part, row in zip(made, whole, strict=True)
        )
        same = same and all(torch.equal(row[: self.size], old) for row, old in zip(whole, self._rows, strict=False))
        self._rows, self.size = whole if same else None, size

    def __call__(self, positions: Int[Tensor, "B T"]) -> tuple[Tensor, ...]:
        if self._rows is None:
            return self._made(self.module, positions)
        return tuple(embedding(positions, rows) for rows in self._rows)

    def _made(self, module: nn.Module, positions: Int[Tensor, "B T"]) -> tuple[Tensor, ...]:
        def given(one: Any) -> Any:
            if one is _POSITIONS:
                return positions
            return one.expand(*positions.shape, -1) if isinstance(one, Tensor) else one

        return module(*map(given, self._args), **{name: given(one) for name, one in self._kwargs.items()})


_POSITIONS = object()


def _sample(one: Any, positions: Tensor) -> Any:
    """What is held in place of an argument: of hidden states those of one token, which tell their type."""
    if one is positions:
        return _POSITIONS
    return one[:1, :1].clone() if isinstance(one, Tensor) else one


def by_position(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], positions: Tensor, result: Any
) -> bool:
    """Whether a call looks like one of positions alone."""
    given = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
    if any(True for _ in module.parameters()) or not any(one is positions for one in given) or len(given) > 2:
        return False
    parts = result if isinstance(result, tuple) else ()
    shaped = all(
        isinstance(part, Tensor) and part.shape[:-1] == positions.shape
        for part in (*given, *parts)
        if part is not positions
    )
    return bool(parts) and shaped
