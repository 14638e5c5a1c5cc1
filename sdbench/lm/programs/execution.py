"""How the steps of a model are executed: eagerly, or by programs.

    eager      the model's own forward, operation by operation
    compile    ahead-of-time compiled programs (`sdbench.lm.programs.compiled`), on a CPU
    cudagraph  the eager step, captured once and replayed (`sdbench.lm.programs.cudagraph`)

The two fast modes have one program for each shape of a step. They make programs during warm-up. Once frozen, they make no more: a
step of an unknown shape runs the model's own forward, and is marked as `missed`. So nothing is compiled during a measurement,
and a measurement that did not run in its mode shows it. Prefill is always eager, because its widths hardly repeat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sdbench.lm.kv_cache import KVCache
from sdbench.lm.programs.traced import Inputs, Traceable, flat

WIDEST = 128  # new tokens per row; a wider step spends its time in matrix products, so a program gains nothing

Program = Callable[[list[Tensor]], list[Tensor]]


class Execution:
    """The eager mode, which has no programs.

    frozen: no programs may be made any more. seconds: the time spent on making programs. made, loaded: their numbers.
    """

    name = "eager"
    frozen = False

    def __init__(self) -> None:
        self.seconds, self.made, self.loaded = 0.0, 0, 0

    @property
    def settled(self) -> bool:
        """Whether no program will be made any more."""
        return True

    def freeze(self, lm: Traceable | None) -> None:
        """Make no programs from now on. lm: the model that is executed; None if it is no `transformers` model."""
        self.frozen = True

    def attend_len(self, needed: int, slots: int) -> int:
        """Return the number of slots that attention reads in a step that needs `needed` of the cache's `slots`."""
        return needed

    def slots(self, needed: int) -> int:
        """Return the number of slots of a cache that needs `needed` slots."""
        return needed

    def rows(self, active: np.ndarray) -> slice:
        """Return the rows that a step computes: from the first active row to the last. At the end of a run, rows are empty."""
        going = active.nonzero()[0]
        return slice(int(going[0]), int(going[-1]) + 1) if len(going) else slice(None)

    def sized(self, tokens: Int[Tensor, "B L"], slots: int) -> Int[Tensor, "B N"]:
        """Return all tokens of the rows, as a program over a cache of `slots` slots takes them."""
        return tokens

    def run(self, lm: Traceable, inputs: Inputs) -> list[Tensor] | None:
        """Run the program for these inputs.

        Returns, for a step: the logits [B, R, V] and the most likely tokens [B, R].
        For a loop behind a chain: the logits that were drawn from [B, K, V] and the drawn tokens [B, K]. If more than one row of
        logits was requested of the chain, all of these but the last follow.
        For branches: logits [B, K, M, V] and drawn tokens [B, M, K].
        None if there is no program for the shape.
        """
        return None

    def known(self, lm: Traceable) -> list[Inputs]:
        """Return inputs of each shape that has a program over the model's cache, with the model's present taps."""
        return []

    @property
    def tap_sets(self) -> list[tuple[int, ...]]:
        """Return the taps with which there are programs, the fewest first."""
        return []

    def fresh(self) -> Execution:
        """Return the same mode without programs, for another model or another process."""
        other = type(self)()
        other.frozen = self.frozen
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {"frozen": self.frozen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()
        self.frozen = state["frozen"]


class Programs(Execution, ABC):
    """A mode with one program for each shape of a step over a cache."""

    granule = 256  # the size of a cache is a multiple of it, so that runs of similar lengths share programs

    def __init__(self) -> None:
        super().__init__()
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._examples: dict[tuple[Any, ...], Inputs] = {}

    @property
    def settled(self) -> bool:
        return self.frozen

    def slots(self, needed: int) -> int:
        return -(-needed // self.granule) * self.granule

    def rows(self, active: np.ndarray) -> slice:
        return slice(None)  # each number of rows would need programs of its own

    def run(self, lm: Traceable, inputs: Inputs) -> list[Tensor] | None:
        if inputs.first > WIDEST or lm.cached is None or not lm.pool.keys.keys() >= set(lm.cached):
            return None  # an eager step must have made the cache's layers
        shape = *self.shape(lm.pool, inputs), lm.taps
        program = self._programs.get(shape)
        if program is None:
            if self.frozen:
                return None
            begun = perf_counter()
            program = self._programs[shape] = self.make(lm, inputs)
            self._examples[shape] = inputs
            self.seconds += perf_counter() - begun
        return program(flat(lm, inputs))

    def known(self, lm: Traceable) -> list[Inputs]:
        present = lm.pool.slots, lm.taps
        return [given for shape, given in self._examples.items() if (shape[0], shape[-1]) == present]

    @property
    def tap_sets(self) -> list[tuple[int, ...]]:
        return sorted({shape[-1] for shape in self._examples}, key=lambda taps: (len(taps), taps))

    def shape(self, pool: KVCache, inputs: Inputs) -> tuple[Any, ...]:
        """Return what two steps must have in common to share a program. A program may be compiled for a number of threads."""
        return pool.slots, torch.get_num_threads(), type(inputs), inputs.shape

    @abstractmethod
    def make(self, lm: Traceable, inputs: Inputs) -> Program:
        """Make the program for steps of the shape of `inputs`."""
