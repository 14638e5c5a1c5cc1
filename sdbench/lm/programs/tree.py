"""A token tree as a program is given it: the roots of its M branches, and after how many tokens of its row each of them stands.

The rest is derived in the step, as of a chain. All branches grow by a token at a time, K times, into scratch slots that begin at
`base` in every row: the token of branch m at depth d stands at position first_m + d, in slot base + d M + m, and sees the row up
to its root, which is the slots below first_m, and its own branch, which is the slots base + j M + m with j <= d.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench.lm.programs.base import Inputs, Loop
from sdbench.models.architecture import FULL
from sdbench.sampling import Sampling

if TYPE_CHECKING:
    from sdbench.lm.transformer import Transformer


@dataclass
class TreeInputs(Inputs):
    """What K steps of a tree are given.

    roots: the first tokens of the branches. behind: how many tokens a branch stands behind the row's length. at: the lengths of the
    rows, then `base`. places: the numbers of the slots that are attended over. uniform: the numbers behind the draws.
    """

    roots: Int[Tensor, "B M"]
    behind: Int[Tensor, "B M"]
    at: Int[Tensor, " B+1"]
    places: Int[Tensor, " E"]
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
        return [self.places]

    @property
    def depth(self) -> int:
        return len(self.uniform)

    @property
    def shape(self) -> tuple[Any, ...]:
        drawn = self.sampling
        return *self.roots.shape, self.depth, drawn.temperature, drawn.top_k, drawn.top_p

    def module(self, lm: Transformer) -> nn.Module:
        return Branches(lm, self)

    def needs(self, context: int) -> int:
        return context + self.depth * self.first

    def after(self, context: int, places: Int[Tensor, " E"]) -> TreeInputs:
        at = torch.full_like(self.at, context)
        return replace(self, at=at, behind=torch.zeros_like(self.behind), places=places)


class Branches(nn.Module):
    """K steps of a tree, as a function of tensors."""

    def __init__(self, lm: Transformer, inputs: TreeInputs) -> None:
        super().__init__()
        self._kinds, self._window, self._added, self._last = lm.mask_kinds, lm.window, lm.added, lm.max_positions - 1
        self.inner = Loop(lm, inputs.first, inputs.first, inputs.sampling)

    def forward(self, own: list[Tensor], over: list[Tensor], pools: list[list[Tensor]]) -> tuple[Tensor, ...]:
        (roots, behind, at, uniform), (places,) = own, over
        first, positions, slots = spread(behind, at, len(pools), self._last)
        masks = branch_masks(first, at[-1], len(pools), places, self._kinds, self._window, self._added)
        logits, chosen = self.inner([roots, positions, slots, uniform], masks, pools)
        return logits.unflatten(1, (len(pools), -1)), chosen.unflatten(0, (len(roots), -1))


def spread(
    behind: Int[Tensor, "B M"], at: Int[Tensor, " B+1"], depth: int, last: int
) -> tuple[Int[Tensor, "B M"], Int[Tensor, "B KM"], Int[Tensor, "B KM"]]:
    """Where the branches begin, and the positions (up to the last that there is) and slots of all their tokens, depth by depth."""
    first = behind + at[:-1, None]
    positions = first[:, None] + torch.arange(depth, device=at.device)[:, None]
    slots = at[-1] + torch.arange(positions[0].numel(), device=at.device)
    return first, positions.clamp(max=last).flatten(1), slots.expand(len(first), -1)


def branch_masks(
    first: Int[Tensor, "B M"],
    base: Int[Tensor, ""],
    depth: int,
    places: Int[Tensor, " E"],
    kinds: tuple[str, ...],
    window: int,
    added: tuple[Tensor, Tensor],
) -> list[Float[Tensor, "B 1 KM E"]]:
    """What is added to the scores of a tree's queries, for each kind of layers.

    first: where the branches begin. added: to the score of a slot that is seen, and of one that is not.
    """
    branch, offset = torch.arange(first.shape[1], device=first.device), places - base
    masks = []
    for kind in kinds:
        seen = []
        for deep in range(depth):
            row = places < first[..., None]
            if kind != FULL:
                row = row & (first[..., None] + deep - places < window)
            for back in range(deep + 1 if kind == FULL else min(deep + 1, window)):
                row = row | (offset == ((deep - back) * first.shape[1] + branch)[:, None])
            seen.append(row)
        masks.append(torch.where(torch.cat(seen, 1), *added)[:, None])
    return masks
