"""Programs for the branches of a speculation. Their inputs are the branches' first tokens, and where these stand.

All branches grow by one token per step, K times, into scratch slots that begin at `base` in every row. The program derives
positions, slots and masks (`sdbench.lm.masks.branch_masks`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench.lm.masks import branch_masks
from sdbench.lm.programs.traced import Inputs, Loop, Traceable
from sdbench.sampling import Sampling


@dataclass
class TreeInputs(Inputs):
    """The inputs of K steps of M branches per row.

    roots: the first token of each branch. behind: the number of tokens between the end of the row and the root.
    at: the lengths of the rows, then `base`. slots: the numbers of the slots that attention reads.
    uniform: the random numbers behind the draws.
    """

    roots: Int[Tensor, "B M"]
    behind: Int[Tensor, "B M"]
    at: Int[Tensor, " B+1"]
    slots: Int[Tensor, " E"]
    sampling: Sampling
    uniform: Float[Tensor, "K BM"]

    @property
    def first(self) -> int:
        return self.roots.shape[1]

    @property
    def own(self) -> list[Tensor]:
        return [self.roots, self.behind, self.at, self.uniform]

    @property
    def over(self) -> list[Tensor]:
        return [self.slots]

    @property
    def depth(self) -> int:
        return len(self.uniform)

    @property
    def shape(self) -> tuple[Any, ...]:
        drawn = self.sampling
        return *self.roots.shape, self.depth, drawn.temperature, drawn.top_k, drawn.top_p

    def module(self, lm: Traceable) -> nn.Module:
        return Branches(lm, self)

    def needs(self, context: int) -> int:
        return context + self.depth * self.first

    def after(self, context: int, slots: Int[Tensor, " E"]) -> TreeInputs:
        at = torch.full_like(self.at, context)
        return replace(self, at=at, behind=torch.zeros_like(self.behind), slots=slots)


class Branches(nn.Module):
    """K steps of the branches, as a function of tensors."""

    def __init__(self, lm: Traceable, inputs: TreeInputs) -> None:
        super().__init__()
        self._form, self._last = lm.mask_form, lm.max_positions - 1
        self.inner = Loop(lm, inputs.first, inputs.first, inputs.sampling)

    def forward(self, own: list[Tensor], over: list[Tensor], pools: list[list[Tensor]]) -> tuple[Tensor, ...]:
        roots, behind, at, uniform = own
        first, positions, slots = spread(behind, at, len(pools), self._last)
        masks = branch_masks(self._form, first, at[-1], len(pools), over[0])
        logits, chosen = self.inner([roots, positions, slots, uniform], masks, pools)
        return logits.unflatten(1, (len(pools), -1)), chosen.unflatten(0, (len(roots), -1))


def spread(
    behind: Int[Tensor, "B M"], at: Int[Tensor, " B+1"], depth: int, last: int
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B KM"], Int[Tensor, "B KM"]]:
    """Return the first position of each branch, and the positions and slots of all branch tokens, depth by depth.

    last: the last position that the model can read; positions beyond it are clamped.
    """
    first = behind + at[:-1, None]
    positions = first[:, None] + torch.arange(depth, device=at.device)[:, None]
    slots = at[-1] + torch.arange(positions[0].numel(), device=at.device)
    return first, positions.clamp(max=last).flatten(1), slots.expand(len(first), -1)
