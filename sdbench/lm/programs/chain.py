"""Programs for chains. Their inputs are all tokens of the rows, and which of them each row reads.

The program derives the rest. A row reads T tokens that end at e. Query i stands at position e - T + i, which is also its slot,
and sees the slots up to its own. If that position lies before s, the first token that the row has to read, the query is padding:
it writes into the padding slot and sees every slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench.lm.masks import chain_masks
from sdbench.lm.programs.traced import Inputs, Loop, Step, Traceable
from sdbench.sampling import Sampling


@dataclass
class ChainInputs(Inputs):
    """The inputs of a step of a chain, or of a loop that drafts behind one.

    tokens: all tokens of each row.
    ends: for each row the first token to read (beyond all tokens: none) and the end of the tokens to read.
    slots: the numbers of the slots that attention reads.
    width: T, the largest number of tokens that a row reads. num_logits: the number of last tokens whose logits are returned.
    sampling, uniform: for a loop, how its K tokens are drawn, and the random numbers behind the draws.
    """

    tokens: Int[Tensor, "B N"]
    ends: Int[Tensor, "2 B"]
    slots: Int[Tensor, " E"]
    width: int
    num_logits: int
    sampling: Sampling | None = None
    uniform: Float[Tensor, "K M"] | None = None

    @property
    def first(self) -> int:
        return self.width

    @property
    def own(self) -> list[Tensor]:
        return [self.tokens, self.ends] if self.uniform is None else [self.tokens, self.ends, self.uniform]

    @property
    def over(self) -> list[Tensor]:
        return [self.slots]

    @property
    def free(self) -> list[dict[int, str]]:
        return [{1: "room"}, *super().free[1:]]

    @property
    def depth(self) -> int:
        return 1 if self.uniform is None else len(self.uniform)

    @property
    def shape(self) -> tuple[Any, ...]:
        shape = len(self.tokens), self.width, self.num_logits
        if self.sampling is None:
            return shape
        return *shape, self.depth, self.sampling.temperature, self.sampling.top_k, self.sampling.top_p

    def module(self, lm: Traceable) -> nn.Module:
        return Chain(lm, self)

    def needs(self, context: int) -> int:
        return context + self.width + self.depth - 1

    def after(self, context: int, slots: Int[Tensor, " E"]) -> ChainInputs:
        rows, stop = len(self.tokens), min(context + self.width, self.tokens.shape[1])
        ends = torch.tensor([[stop - self.width] * rows, [stop] * rows], device=self.ends.device)
        return replace(self, ends=ends, slots=slots)


class Chain(nn.Module):
    """A step or a loop over a chain, as a function of tensors."""

    def __init__(self, lm: Traceable, inputs: ChainInputs) -> None:
        super().__init__()
        self._width, self._queries, self._form = inputs.width, inputs.width + inputs.depth - 1, lm.mask_form
        self._before = inputs.num_logits - 1 if inputs.sampling else 0
        if inputs.sampling is None:
            self.inner = Step(lm, inputs.num_logits)
        else:
            self.inner = Loop(lm, inputs.num_logits, 1, inputs.sampling)

    def forward(self, own: list[Tensor], over: list[Tensor], pools: list[list[Tensor]]) -> tuple[Tensor, ...]:
        tokens, ends, *uniform = own
        positions, slots, padding = laid(ends, self._width, self._queries, pools[0][0].shape[2] - 1)
        read = tokens.gather(1, positions[:, : self._width])
        masks = chain_masks(self._form, positions, over[0], padding)
        logits, chosen = self.inner([read, positions, slots, *uniform], masks, pools)
        return (logits[:, self._before :], chosen, logits[:, : self._before]) if self._before else (logits, chosen)


def laid(
    ends: Int[Tensor, "2 B"], width: int, queries: int, padding_slot: int
) -> tuple[Int[Tensor, "B Q"], Int[Tensor, "B Q"], Bool[Tensor, "B Q"]]:
    """Return the positions and slots of a chain's queries, and which of them are padding (position 0, the padding slot)."""
    positions = ends[1, :, None] + torch.arange(-width, queries - width, device=ends.device)
    padding = positions < ends[0, :, None]
    return torch.where(padding, 0, positions), torch.where(padding, padding_slot, positions), padding
