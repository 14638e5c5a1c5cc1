"""What a program computes: steps as functions of tensors, which can be compiled or captured.

A program is either one step or a loop. A loop is several steps, each of which reads the tokens that the one before it drew, as a
draft does. The loop draws inside the program, with the random numbers that the host would have used. Positions, slots and masks
are derived inside too, for chains (`sdbench.lm.programs.chain`) and for branches of a speculation (`sdbench.lm.programs.tree`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench.lm.forward import forward
from sdbench.lm.kv_cache import KVCache
from sdbench.lm.masks import MaskForm
from sdbench.models.token_map import SameIds
from sdbench.sampling import Sampling, drawn


class Traceable(Protocol):
    """What programs need to know of a language model.

    model: the `transformers` model; config: its text config. ids: translates between the target's
    token ids and the model's own. pool: its KV cache; cached: the numbers of the cache's layers that the model uses, None before
    its first eager step. taps: the layers whose hidden states a step writes into the cache.
    """

    taps: tuple[int, ...]

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> Any: ...
    @property
    def config(self) -> Any: ...
    @property
    def cached(self) -> tuple[int, ...] | None: ...
    @property
    def ids(self) -> SameIds: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def pool(self) -> KVCache: ...
    @property
    def mask_form(self) -> MaskForm: ...


class Inputs(ABC):
    """The inputs of a program, apart from the KV cache. Each kind of inputs has programs of its own."""

    @property
    @abstractmethod
    def first(self) -> int:
        """The number of tokens of a row that the first step reads."""

    @property
    @abstractmethod
    def own(self) -> list[Tensor]:
        """The tensors whose size does not depend on how many slots attention reads."""

    @property
    @abstractmethod
    def over(self) -> list[Tensor]:
        """The tensors whose last dimension is the number of slots that attention reads."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """The number of steps."""

    @property
    @abstractmethod
    def shape(self) -> tuple[Any, ...]:
        """What two calls must have in common to share a program, apart from the KV cache."""

    @abstractmethod
    def module(self, lm: Traceable) -> nn.Module:
        """Return the call as a function of `own`, `over` and the cache's layers (once for each step)."""

    @abstractmethod
    def needs(self, context: int) -> int:
        """Return the number of slots that the same call reads behind `context` tokens of every row."""

    @abstractmethod
    def after(self, context: int, slots: Int[Tensor, " E"]) -> Inputs:
        """Return inputs of the same shape behind `context` tokens, for timing. slots: the numbers of the slots to read."""

    def within(self, attend_len: int) -> Inputs:
        """Return inputs of the same shape at the end of `attend_len` slots, for graph capture. Their outputs mean nothing."""
        return self.after(max(attend_len - self.needs(0), 0), torch.arange(attend_len, device=self.own[0].device))

    @property
    def free(self) -> list[dict[int, str]]:
        """For each tensor, the dimensions (by name) that may differ between calls of one program."""
        return [{}] * len(self.own) + [{tensor.dim() - 1: "attend_len"} for tensor in self.over]


@dataclass(frozen=True)
class StepInputs(Inputs):
    """The inputs of one step of all rows.

    masks: additive, one for each kind of layers. num_logits: the number of last queries whose logits are returned.
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

    def module(self, lm: Traceable) -> nn.Module:
        return Step(lm, self.num_logits)

    def needs(self, context: int) -> int:
        return context + self.first

    def after(self, context: int, slots: Int[Tensor, " E"]) -> StepInputs:
        return replace(self, masks=[mask.new_zeros(*mask.shape[:3], len(slots)) for mask in self.masks])


class Step(nn.Module):
    """One step as a function of tensors. Returns logits [B, R, V] and the most likely tokens [B, R]."""

    def __init__(self, lm: Traceable, num_logits: int) -> None:
        super().__init__()
        self.model = lm.model
        self._cached = lm.cached or ()
        self._kinds, self._num_logits, self._ids = lm.mask_form.kinds, num_logits, lm.ids
        self._taps = lm.taps

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
        cache = KVCache.over(layers, self._cached, slots, masks[0].shape[-1])
        return forward(self.model, tokens, positions, cache, self._kinds, masks, num_logits, self._ids, self._taps)


class Loop(Step):
    """Several steps as one function of tensors.

    Each step but the first reads `width` tokens per row, drawn from the last `width` logits of the step before. Positions, slots
    and masks are given for all queries, step after step.

    Returns the logits of all steps, and the drawn tokens.
    """

    def __init__(self, lm: Traceable, num_logits: int, width: int, sampling: Sampling) -> None:
        super().__init__(lm, num_logits)
        self._width, self._sampling = width, sampling

    def forward(self, own: list[Tensor], over: list[Tensor], pools: list[list[Tensor]]) -> tuple[Tensor, ...]:
        tokens, positions, slots, uniform = own
        logits, chosen, first, num_logits = [], [], 0, self._num_logits
        for depth, layers in enumerate(pools):
            part = slice(first, first := first + tokens.shape[1])
            seen = [mask[:, :, part] for mask in over]
            logits.append(self._logits(tokens, positions[:, part], slots[:, part], seen, layers, num_logits))
            level = None if self._sampling.greedy else uniform[depth].view(len(tokens), self._width)
            tokens, num_logits = drawn(logits[-1][:, -self._width :], self._sampling, level), self._width
            chosen.append(tokens)
        return torch.cat(logits, 1), torch.stack(chosen, 2).flatten(0, 1)


def flat(lm: Traceable, inputs: Inputs) -> list[Tensor]:
    """Return the arguments of a program as one list of contiguous tensors.

    Each step of a loop gets the cache's layers as arguments of its own. A compiler updates a tensor in place only if one step
    writes it, and would otherwise copy it. The aliasing is safe, because each step reads what the step before it drew.
    """
    layers = lm.pool.layers_of(lm.cached or ()) * inputs.depth
    return [*(tensor.contiguous() for tensor in (*inputs.own, *inputs.over)), *layers]


def parted(
    lm: Traceable, inputs: Inputs, tensors: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
    """Undo `flat`: return `own`, `over`, and the cache's layers for each step."""
    first, layers = len(inputs.own), 2 * len(lm.cached or ())
    own = first + len(inputs.over)
    return tensors[:first], tensors[first:own], [tensors[at : at + layers] for at in range(own, len(tensors), layers)]
