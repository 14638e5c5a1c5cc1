"""How the steps of a model are executed.

    eager      the model's own forward, operation by operation
    compile    ahead-of-time compiled programs (`sdbench.lm.programs.compiled`), on a CPU
    cudagraph  the eager step, captured once and replayed (`sdbench.lm.programs.cudagraph`)

Both fast modes have one *program* for each shape of a step. Programs are made while shapes may still be learned, that is in
warm-up. Once `frozen`, a step of an unknown shape takes the model's own forward and is marked as `missed`: so nothing is ever
compiled in the middle of a measurement, and a measurement that did not run as it says shows it. Prefill, whose widths hardly
repeat, is always eager.

A program is either one step or a *loop*: several steps of which each reads what was chosen from the logits of the one before, as a
draft does. Its random choices are made inside, by the numbers that the host would have used. So are positions, slots and masks, of
chains (`sdbench.lm.programs.chain`) and of token trees (`sdbench.lm.programs.tree`).
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench.errors import InputError
from sdbench.lm.kv_cache import KVCache
from sdbench.sampling import Sampling, drawn

if TYPE_CHECKING:
    from sdbench.lm.model import LanguageModel
    from sdbench.lm.transformer import Transformer

COMPILERS = ("g++", "clang++")
MODES = ("eager", "compile", "cudagraph")
WIDEST = 128  # new tokens a row; a wider step spends its time in products of matrices, and gains nothing

Program = Callable[[list[Tensor]], list[Tensor]]


class Inputs(ABC):
    """What a program is given beside the pool; each kind of it has its own programs."""

    @property
    @abstractmethod
    def first(self) -> int:
        """How many tokens of a row its first step reads."""

    @property
    @abstractmethod
    def own(self) -> list[Tensor]:
        """Tensors that are the same however far is attended."""

    @property
    @abstractmethod
    def over(self) -> list[Tensor]:
        """Tensors whose last dimension is the number of slots attended over."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many steps it is."""

    @property
    @abstractmethod
    def shape(self) -> tuple[Any, ...]:
        """What two calls must have in common to share a program, the pool aside."""

    @abstractmethod
    def module(self, lm: Transformer) -> nn.Module:
        """The call as a function of `own`, `over` and the layers of the pool, once for each step."""

    def within(self, attend_len: int) -> Inputs:
        """The same call over so many slots, at the end of them, for what it computes: what it says means nothing."""
        return self.after(max(attend_len - self.needs(0), 0), torch.arange(attend_len, device=self.own[0].device))

    @abstractmethod
    def needs(self, context: int) -> int:
        """How many slots the same call attends over behind `context` tokens of every row."""

    @abstractmethod
    def after(self, context: int, places: Int[Tensor, " E"]) -> Inputs:
        """The same call behind so many tokens, over the slots of these numbers, for the time that it takes."""

    @property
    def free(self) -> list[dict[int, str]]:
        """Of each tensor the dimensions that may differ between calls of one program, by name."""
        return [{}] * len(self.own) + [{tensor.dim() - 1: "attend_len"} for tensor in self.over]


@dataclass(frozen=True)
class StepInputs(Inputs):
    """What a step is given, all rows of the pool together.

    masks: additive, one for each kind of layers. num_logits: logits of the last so many queries.
    """

    tokens: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]
    slots: Int[Tensor, "B T"]
    masks: list[Float[Tensor, "B 1 T E"]]
    num_logits: int

    @property
    def first(self) -> int:
        return self.tokens.shape[1]

    @property
    def own(self) -> list[Tensor]:
        return [self.tokens, self.positions, self.slots]

    @property
    def over(self) -> list[Tensor]:
        return self.masks

    @property
    def depth(self) -> int:
        return 1

    @property
    def shape(self) -> tuple[Any, ...]:
        return *self.tokens.shape, self.num_logits, len(self.masks)

    def module(self, lm: Transformer) -> nn.Module:
        return Step(lm, self.num_logits)

    def needs(self, context: int) -> int:
        return context + self.first

    def after(self, context: int, places: Int[Tensor, " E"]) -> StepInputs:
        return replace(self, masks=[mask.new_zeros(*mask.shape[:3], len(places)) for mask in self.masks])


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

    def freeze(self, lm: LanguageModel) -> None:
        """Make no programs from here on."""
        self.frozen = True

    def attend_len(self, needed: int, slots: int) -> int:
        """The number of slots that attention reads in a step that needs `needed` of the cache's `slots`."""
        return needed

    def slots(self, slots: int) -> int:
        """How many slots a pool is given that needs `slots` of them."""
        return slots

    def rows(self, active: np.ndarray) -> slice:
        """Which rows a step computes: from the first that is decoded to the last. At the end of a run rows stand empty."""
        going = active.nonzero()[0]
        return slice(int(going[0]), int(going[-1]) + 1) if len(going) else slice(None)

    def sized(self, tokens: Int[Tensor, "B N"], slots: int) -> Int[Tensor, "B N"]:
        """All tokens of the rows, as a program over a pool of so many slots is given them."""
        return tokens

    def run(self, lm: Transformer, inputs: Inputs) -> list[Tensor] | None:
        """The step's logits [B, R, V], and the most likely tokens [B, R].

        Of a loop behind a chain the logits that were drawn from, [B, K, V], what was drawn, [B, K], and, where more than one was
        kept of the chain, the logits of these but the last; of a tree logits [B, K, M, V] and what was drawn, [B, M, K].

        None where there is no program for its shape.
        """
        return None

    def known(self, lm: Transformer) -> list[Inputs]:
        """Inputs of each shape that there is a program for, over the model's pool."""
        return []

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
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._examples: dict[tuple[Any, ...], Inputs] = {}

    @property
    def settled(self) -> bool:
        return self.frozen

    def slots(self, slots: int) -> int:
        return -(-slots // self.granule) * self.granule

    def rows(self, active: np.ndarray) -> slice:
        return slice(None)  # each number of rows would be a shape of its own

    def run(self, lm: Transformer, inputs: Inputs) -> list[Tensor] | None:
        if inputs.first > WIDEST or len(lm.pool.keys) < lm.layers:
            return None
        shape = self.shape(lm.pool, inputs)
        program = self._programs.get(shape)
        if program is None:
            if self.frozen:
                return None
            begun = perf_counter()
            program = self._programs[shape] = self.make(lm, inputs)
            self._examples[shape] = inputs
            self.seconds += perf_counter() - begun
        return program(flat(lm, inputs))

    def known(self, lm: Transformer) -> list[Inputs]:
        return [given for shape, given in self._examples.items() if shape[0] == lm.pool.slots]

    def shape(self, pool: KVCache, inputs: Inputs) -> tuple[Any, ...]:
        """What two steps must have in common to share a program (which may be compiled for a number of threads)."""
        return pool.slots, torch.get_num_threads(), type(inputs), inputs.shape

    @abstractmethod
    def make(self, lm: Transformer, inputs: Inputs) -> Program:
        """The program for steps of the shape of `inputs`."""


class Step(nn.Module):
    """A step as a function of tensors alone: what is compiled, or captured."""

    def __init__(self, lm: Transformer, num_logits: int) -> None:
        super().__init__()
        self.model = lm.model
        self._kinds, self._num_logits, self._vocab = lm.mask_kinds, num_logits, lm.vocab

    def forward(self, own: list[Tensor], over: list[Tensor], pools: list[list[Tensor]]) -> tuple[Tensor, ...]:
        tokens, positions, slots = own
        logits = self._logits(tokens, positions, slots, over, pools[0], self._num_logits)
        return logits, logits.argmax(-1)

    def _logits(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        masks: list[Tensor],
        layers: list[Tensor],
        num_logits: int,
    ) -> Tensor:
        pool = KVCache.over(layers, slots, masks[0].shape[-1])
        mask = masks[0] if len(masks) == 1 else dict(zip(self._kinds, masks, strict=True))
        return self.model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=pool,
            use_cache=True,
            attention_mask=mask,
            logits_to_keep=num_logits,
        ).logits[..., : self._vocab]


class Loop(Step):
    """Several steps as one function of tensors; each but the first is of `width` tokens a row, chosen from the last `width` logits.

    Positions, slots and masks are those of all queries, step after step.
    """

    def __init__(self, lm: Transformer, num_logits: int, width: int, sampling: Sampling) -> None:
        super().__init__(lm, num_logits)
        self._width, self._sampling = width, sampling

    def forward(self, own: list[Tensor], over: list[Tensor], pools: list[list[Tensor]]) -> tuple[Tensor, ...]:
        tokens, positions, slots, uniform = own
        logits, chosen, first, num_logits = [], [], 0, self._num_logits
        for depth, layers in enumerate(pools):
            part = slice(first, first := first + tokens.shape[1])
            seen = [mask[:, :, part] for mask in over]
            logits.append(self._logits(tokens, positions[:, part], slots[:, part], seen, layers, num_logits))
            level = uniform[depth] if self._sampling.greedy else uniform[depth].view(len(tokens), self._width)
            tokens, num_logits = drawn(logits[-1][:, -self._width :], self._sampling, level), self._width
            chosen.append(tokens)
        return torch.cat(logits, 1), torch.stack(chosen, 2).flatten(0, 1)


def flat(lm: Transformer, inputs: Inputs) -> list[Tensor]:
    """The arguments of a program, one after the other, their memory in order.

    Each step of a loop is given the layers of the pool anew: a compiler writes in place into what one step writes, but would copy
    what several do. That they are the same memory it need not know, for each step reads what the one before it chose.
    """
    layers = lm.pool.layers_of(lm.layers) * inputs.depth
    return [*(tensor.contiguous() for tensor in (*inputs.own, *inputs.over)), *layers]


def parted(
    lm: Transformer, inputs: Inputs, tensors: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
    """What `flat` put one after the other: `own`, `over`, and the pool's layers for each step."""
    first, layers = len(inputs.own), 2 * lm.layers
    own = first + len(inputs.over)
    return tensors[:first], tensors[first:own], [tensors[at : at + layers] for at in range(own, len(tensors), layers)]


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
    if mode == "compile" and kind == "cuda":
        raise InputError(
            f"hardware.execution is compile, but {role} is on {device}, where loading compiled programs has ended the process: "
            "choose cudagraph."
        )
    if mode == "compile" and kind == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise InputError(
            f"hardware.execution is compile, which needs a C++ compiler ({' or '.join(COMPILERS)}): install one."
        )


def execution_of(mode: str) -> Execution:
    """The mode of a name."""
    if mode == "compile":
        from sdbench.lm.programs.compiled import Compiled

        return Compiled()
    if mode == "cudagraph":
        from sdbench.lm.programs.cudagraph import CudaGraph

        return CudaGraph()
    return Execution()


def programs_of(executions: list[Execution]) -> dict[str, Any]:
    """What a run says of its programs."""
    return {
        "seconds": round(sum(one.seconds for one in executions), 3),
        "made": sum(one.made for one in executions),
        "loaded": sum(one.loaded for one in executions),
    }
