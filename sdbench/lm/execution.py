"""How the steps of a model are executed.

    eager      the model's own forward, operation by operation
    compile    ahead-of-time compiled programs (`sdbench.lm.compiled`)
    cudagraph  the eager step, captured once and replayed (`sdbench.lm.cudagraph`)

Both fast modes have one *program* for each shape of a step. Programs are made while shapes may still be learned, that is in
warm-up. Once `frozen`, a step of an unknown shape takes the model's own forward and is marked as `missed`: so nothing is ever
compiled in the middle of a measurement, and a measurement that did not run as it says shows it. Prefill, whose widths hardly
repeat, is always eager.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench.errors import InputError
from sdbench.lm.pool import SlotPool

if TYPE_CHECKING:
    from sdbench.lm.transformer import Transformer

COMPILERS = ("g++", "clang++")
MODES = ("eager", "compile", "cudagraph")
WIDEST = 128  # new tokens a row; a wider step spends its time in products of matrices, and gains nothing

Program = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class StepInputs:
    """What a step is given, all rows of the pool together.

    masks: additive, one for each kind of layers. keep: logits of the last so many queries.
    """

    tokens: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]
    slots: Int[Tensor, "B T"]
    masks: list[Float[Tensor, "B 1 T E"]]
    keep: int


class Execution:
    """The eager mode: it has no programs. seconds: what making programs took; made, loaded: how many were."""

    name = "eager"
    frozen = False

    def __init__(self) -> None:
        self.seconds, self.made, self.loaded = 0.0, 0, 0

    @property
    def settled(self) -> bool:
        """Whether no program will be made any more."""
        return True

    def extent(self, extent: int, slots: int) -> int:
        """How many slots a step attends over that needs `extent` of them."""
        return extent

    def slots(self, slots: int) -> int:
        """How many slots a pool is given that needs `slots` of them."""
        return slots

    def run(self, lm: Transformer, inputs: StepInputs) -> Float[Tensor, "B R V"] | None:
        """The step's logits; None where there is no program for its shape."""
        return None

    def kept(self, lm: Transformer, rows: int, width: int) -> int | None:
        """How many logits the program of a shape gives; None where there is none."""
        return None

    def fresh(self) -> Execution:
        """The same mode, without programs: for another model, or in another process."""
        other = type(self)()
        other.frozen = self.frozen
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {"frozen": self.frozen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()
        self.frozen = state["frozen"]


class Programs(Execution, ABC):
    """A mode with programs, one for each shape of a step over a pool."""

    granule = 256  # pools are rounded up to so many slots, so that runs of about the same lengths share programs

    def __init__(self) -> None:
        super().__init__()
        self._programs: dict[tuple[int, ...], Program] = {}

    @property
    def settled(self) -> bool:
        return self.frozen

    def slots(self, slots: int) -> int:
        return -(-slots // self.granule) * self.granule

    def run(self, lm: Transformer, inputs: StepInputs) -> Float[Tensor, "B R V"] | None:
        if inputs.tokens.shape[1] > WIDEST or len(lm.pool.keys) < lm.layers:
            return None
        shape = self.shape(lm.pool, inputs)
        program = self._programs.get(shape)
        if program is None:
            if self.frozen:
                return None
            begun = perf_counter()
            program = self._programs[shape] = self.make(lm, inputs)
            self.seconds += perf_counter() - begun
        return program(flat(lm, inputs))

    def kept(self, lm: Transformer, rows: int, width: int) -> int | None:
        alike = [shape[2] for shape in self._programs if (*shape[:2], shape[4]) == (rows, width, lm.pool.slots)]
        return max(alike, default=None)

    def shape(self, pool: SlotPool, inputs: StepInputs) -> tuple[int, ...]:
        """What two steps must have in common to share a program."""
        rows, width = inputs.tokens.shape
        return rows, width, inputs.keep, len(inputs.masks), pool.slots

    @abstractmethod
    def make(self, lm: Transformer, inputs: StepInputs) -> Program:
        """The program for steps of the shape of `inputs`."""


class Step(nn.Module):
    """A step as a function of tensors alone: what is compiled, or captured."""

    def __init__(self, lm: Transformer, keep: int) -> None:
        super().__init__()
        self.model = lm.model
        self._kinds, self._keep = lm.mask_kinds, keep

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        masks: list[Tensor],
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        pool = SlotPool.over(keys, values, slots, masks[0].shape[-1])
        mask = masks[0] if len(masks) == 1 else dict(zip(self._kinds, masks, strict=True))
        return self.model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=pool,
            use_cache=True,
            attention_mask=mask,
            logits_to_keep=self._keep,
        ).logits


def flat(lm: Transformer, inputs: StepInputs) -> list[Tensor]:
    """The arguments of `Step.forward`, one after the other, their memory in order."""
    keys, values = lm.pool.layers_of(lm.layers)
    own = [inputs.tokens, inputs.positions, inputs.slots, *inputs.masks]
    return [*(tensor.contiguous() for tensor in own), *keys, *values]


def check_execution(role: str, mode: str, device: str) -> None:
    """Refuse a mode that there is not, or that a role's device cannot have."""
    kind = torch.device(device).type
    if mode not in MODES:
        raise InputError(f"hardware.execution is '{mode}'; it must be one of {', '.join(MODES)}.")
    if mode == "cudagraph" and kind != "cuda":
        raise InputError(
            f"hardware.execution is cudagraph, but {role} is on {device}: choose a CUDA device, or compile."
        )
    if mode == "compile" and kind == "mps":
        raise InputError(
            f"hardware.execution is compile, but {role} is on mps, where nothing is compiled: choose eager."
        )
    if mode == "compile" and kind == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise InputError(
            f"hardware.execution is compile, which needs a C++ compiler ({' or '.join(COMPILERS)}): install one."
        )


def execution_of(mode: str) -> Execution:
    """The mode of a name."""
    if mode == "compile":
        from sdbench.lm.compiled import Compiled

        return Compiled()
    if mode == "cudagraph":
        from sdbench.lm.cudagraph import CudaGraph

        return CudaGraph()
    return Execution()


def programs_of(executions: list[Execution]) -> dict[str, Any]:
    """What a run says of its programs."""
    return {
        "seconds": round(sum(one.seconds for one in executions), 3),
        "made": sum(one.made for one in executions),
        "loaded": sum(one.loaded for one in executions),
    }
