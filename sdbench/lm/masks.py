"""Attention masks: which slots each query sees, as numbers that are added to the attention scores.

All masks come from `additive_masks`: those of chains, of token trees and of the branches of a speculation. They differ only in
which slots are visible and how far away these are. The same functions run in eager steps and inside compiled or captured programs.

Shapes: B rows, Q queries, E slots that attention reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.models.skeleton import LOCAL, SLIDING

_ALIGNMENT = 8  # numbers; GPU kernels want each query's row of the mask to begin at a multiple of it


@dataclass(frozen=True)
class MaskForm:
    """The masks that a model takes.

    kinds: the kinds of its attention layers, in the order of their masks and of `sdbench.models.skeleton.KINDS`.
    window: the number of last tokens that a sliding-window layer sees, the query's own token included.
    chunk: the number of tokens of a chunk. A chunked layer sees the tokens of the query's own chunk only.
    seen, unseen: what is added to the score of a slot that is seen (0), and of one that is not (-inf), in the model's type.
    hides_first: a query that sees other slots does not see slot 0 (a head: `sdbench.lm.feature_head`).
    """

    kinds: tuple[str, ...]
    window: int
    seen: Float[Tensor, ""]
    unseen: Float[Tensor, ""]
    hides_first: bool = False
    chunk: int = 0

    @property
    def local(self) -> bool:
        """Whether some layers see near tokens only."""
        return any(kind in LOCAL for kind in self.kinds)


def additive_masks(
    form: MaskForm,
    visible: Bool[Tensor, "B Q E"],
    positions: Int[Tensor, "B Q"],
    distance: Int[Tensor, "B Q E"] | None,
    padding: Bool[Tensor, "B Q"] | None = None,
) -> list[Float[Tensor, "B 1 Q E"]]:
    """Make the mask of each kind of layers.

    visible: the slots that a query sees in a layer of full attention.
    positions: of the queries.
    distance: the position of the query minus the position of the slot's token. None if all layers have full attention.
    padding: queries whose result is not used. They see every slot, because a softmax over no slot is not a number.
    """
    masks = []
    if form.hides_first:
        others = visible[:, :, 1:]
        visible = torch.cat([visible[:, :, :1] & ~others.any(-1, keepdim=True), others], -1)
    for kind in form.kinds:
        if kind not in LOCAL or distance is None:
            seen = visible
        elif kind == SLIDING:
            seen = visible & (distance < form.window)
        else:
            seen = visible & (distance <= positions[:, :, None] % form.chunk)
        if padding is not None:
            seen = seen | padding[:, :, None]
        masks.append(torch.where(seen, form.seen, form.unseen)[:, None])
    return masks


def chain_masks(
    form: MaskForm,
    positions: Int[Tensor, "B Q"],
    slots: Int[Tensor, " E"],
    padding: Bool[Tensor, "B Q"] | None = None,
) -> list[Float[Tensor, "B 1 Q E"]]:
    """Make the masks of a chain, in which the slot of a token is its position.

    A query sees the slots up to its own. The slots behind it hold stale tokens, or its own successors in this step.

    positions: of the queries. slots: the numbers of the slots that attention reads.
    """
    query = positions[:, :, None]
    return additive_masks(form, slots <= query, positions, query - slots if form.local else None, padding)


def branch_masks(
    form: MaskForm, first: Int[Tensor, "B M"], base: Int[Tensor, ""], depth: int, slots: Int[Tensor, " E"]
) -> list[Float[Tensor, "B 1 KM E"]]:
    """Make the masks of M branches that grow by one token per step, for K steps.

    The token of branch m at depth d stands at position first[b, m] + d, in slot base + d M + m. It sees the slots below
    first[b, m], which hold the tokens before the branch, and the earlier tokens of its own branch.

    first: the position of each branch's first token. base: the first slot of the branches. depth: K.
    """
    width = first.shape[1]
    branch, steps = torch.arange(width, device=first.device), torch.arange(depth, device=first.device)
    begin = first[:, None, :, None].expand(-1, depth, -1, -1).flatten(1, 2)  # [B, K*M, 1]
    deep = steps[:, None].expand(-1, width).flatten()[:, None]  # [K*M, 1]
    offset = (slots - base - branch[:, None]).repeat(depth, 1)  # [K*M, E], of a slot behind the branch's first one
    before = slots < begin
    own = (offset >= 0) & (offset <= deep * width) & (offset % width == 0)
    distance = torch.where(before, begin + deep - slots, deep - offset // width) if form.local else None
    return additive_masks(form, before | own, (begin + deep)[:, :, 0], distance)


def aligned(mask: Float[Tensor, "B 1 Q E"]) -> Float[Tensor, "B 1 Q E"]:
    """Copy a mask so that each query's row begins at an aligned address.

    Without this, a GPU kernel fails on a mask of one row, and each layer makes an aligned copy of other masks.
    """
    slots = mask.shape[-1]
    room = mask.new_empty(*mask.shape[:-1], -(-slots // _ALIGNMENT) * _ALIGNMENT)
    room[..., :slots] = mask
    return room[..., :slots]
