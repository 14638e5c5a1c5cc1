"""The ranks of outcomes in the draft's order. A server finds them for its fan-out and for the record."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.asynchronous.fan_out import FanOut
from sdbench.drafting.rank_log import ranks

RANKED_AT_ONCE = 32  # outcomes; fan-outs learn from no fewer


class End(NamedTuple):
    """Say how an outcome ended a row's last speculation.

    kept, token: the outcome (k, t). drafted: the tokens of the speculation. hit: whether the cache held the speculation.
    """

    kept: int
    token: int
    drafted: int
    hit: bool


class _Unranked(NamedTuple):
    """An outcome without a rank. ranks: the entry for it, by row. order: [V], the draft's logits behind the kept tokens.
    rejected: the drafted token that was rejected there; -1 if none was."""

    ranks: list[int | None]
    row: int
    end: End
    order: Float[Tensor, " V"]
    rejected: int


class OutcomeRanks:
    """Find the ranks of outcomes, many at a time, because one at a time takes long. fan_out: learns from them."""

    def __init__(self, fan_out: FanOut) -> None:
        self.fan_out = fan_out
        self._unranked: list[_Unranked] = []

    def add(self, into: list[int | None], row: int, end: End, order: Float[Tensor, " V"], rejected: int) -> None:
        """Add the outcome of a row. Its rank will be written to into[row]."""
        self._unranked.append(_Unranked(into, row, end, order, rejected))

    def find(self, fewest: int = 1) -> None:
        """Find the ranks of all outcomes so far, if there are `fewest` of them."""
        if len(self._unranked) < fewest:
            return
        outcomes, self._unranked = self._unranked, []
        order = torch.stack([outcome.order for outcome in outcomes])
        pairs = torch.tensor([[outcome.end.token, outcome.rejected] for outcome in outcomes], device=order.device)
        for outcome, rank in zip(outcomes, ranks(order, *pairs.unbind(1)).tolist(), strict=True):
            end = outcome.end
            self.fan_out.learn(end.drafted, end.hit, end.kept, rank)
            outcome.ranks[outcome.row] = rank
