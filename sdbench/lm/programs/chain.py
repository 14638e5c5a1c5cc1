"""A chain as a program is given it: all tokens of the rows, and from where to where each of them is read.

The rest is derived in the step. Of the T tokens that end at e, and of what is drawn behind them, query i stands at position
e - T + i, which is also its slot, and sees the slots up to its own. Where it stands before s, the first token that the row is to
read, it is padding: its slot is the padding slot, and it sees everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench.lm.programs.base import Inputs, Loop, Step
from sdbench.models.architecture import FULL
from sdbench.sampling import Sampling

if TYPE_CHECKING:
    from sdbench.lm.transformer import Transformer


@dataclass
class ChainInputs(Inputs):
    """What a step of a chain is given, or a loop that goes on behind one.

    tokens: all tokens of each row.
    ends: for each row the first token to read (beyond all tokens: none) and the end of the tokens to read.
    places: the numbers of the slots that attention reads.
    width: T, the largest number of tokens that a row reads. num_logits: the number of last tokens whose logits are returned.
    sampling, uniform: for a loop, how its K tokens are drawn, and the random numbers behind the draws.
    """

    tokens: Int[Tensor, "B N"]
    ends: Int[Tensor, "2 B"]
    places: Int[Tensor, " E"]
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
        return [self.places]

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

    def module(self, lm: Transformer) -> nn.Module:
        return Chain(lm, self)

    def needs(self, context: int) -> int:
        return context + self.width + self.depth - 1

    def after(self, context: int, places: Int[Tensor, " E"]) -> ChainInputs:
        rows, stop = len(self.tokens), min(context + self.width, self.tokens.shape[1])
        ends = torch.tensor([[stop - self.width] * rows, [stop] * rows], device=self.ends.device)
        return replace(self, ends=ends, places=places)


class Chain(nn.Module):
    """A step or a loop over a chain, as a function of tensors."""

    def __init__(self, lm: Transformer, inputs: ChainInputs) -> None:
        super().__init__()
        self._width, self._queries = inputs.width, inputs.width + inputs.depth - 1
        self._kinds, self._window, self._added = lm.mask_kinds, lm.window, lm.added
        self._before = inputs.num_logits - 1 if inputs.sampling else 0
        self.inner = (
            Step(lm, inputs.num_logits) if inputs.sampling is None else Loop(lm, inputs.num_logits, 1, inputs.sampling)
        )

    def forward(self, own: list[Tensor], over: list[Tensor], pools: list[list[Tensor]]) -> tuple[Tensor, ...]:
        tokens, ends, *uniform = own
        (places,) = over
        positions, slots, padding = laid(ends, self._width, self._queries, pools[0][0].shape[2] - 1)
        read = tokens.gather(1, positions[:, : self._width])
        masks = chain_masks(positions, padding, places, self._kinds, self._window, self._added)
        logits, chosen = self.inner([read, positions, slots, *uniform], masks, pools)
        return (logits[:, self._before :], chosen, logits[:, : self._before]) if self._before else (logits, chosen)


def laid(
    ends: Int[Tensor, "2 B"], width: int, queries: int, padding_slot: int
) -> tuple[Int[Tensor, "B Q"], Int[Tensor, "B Q"], Bool[Tensor, "B Q"]]:
    """The positions and slots of the queries of a chain, and which of them are padding, at position 0 and in the padding slot."""
    positions = ends[1, :, None] + torch.arange(-width, queries - width, device=ends.device)
    padding = positions < ends[0, :, None]
    return torch.where(padding, 0, positions), torch.where(padding, padding_slot, positions), padding


def chain_masks(
    positions: Int[Tensor, "B Q"],
    padding: Bool[Tensor, "B Q"] | None,
    places: Int[Tensor, " E"],
    kinds: tuple[str, ...],
    window: int,
    added: tuple[Tensor, Tensor],
) -> list[Float[Tensor, "B 1 Q E"]]:
    """What is added to the scores of a chain's queries, for each kind of layers. added: to those that are seen, and to others.

    A chain's slot is its position; what lies behind the query is stale, or its own successors in this step. A padding query must
    see something, or its softmax is not a number; what it sees is never used.
    """
    query, masks = positions[:, :, None], []
    for kind in kinds:
        seen = places <= query if kind == FULL else (places <= query) & (query - places < window)
        if padding is not None:
            seen = seen | padding[:, :, None]
        masks.append(torch.where(seen, *added)[:, None])
    return masks
