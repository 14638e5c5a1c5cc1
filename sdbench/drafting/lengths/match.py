"""The length of the match (SuffixDecoding, 2411.04975, FA D.5): a long match predicts more tokens than a short one."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft
from sdbench.drafting.base import Proposer
from sdbench.drafting.lengths.base import LengthPolicy
from sdbench.errors import InputError


class MatchLength(LengthPolicy):
    """Draft at most `factor` tokens per token of the match, rounded down, plus `offset`.

    The defaults are those of SuffixDecoding (`max_spec_factor`, `max_spec_offset`). The proposer copies what followed an earlier
    match, so it must state the match's length (`Draft.matched`).
    """

    def __init__(self, factor: float = 1.0, offset: float = 0.0) -> None:
        self.factor = validate.number("lengths.factor", factor, 0)
        self.offset = validate.number("lengths.offset", offset)

    def check(self, proposer: Proposer) -> None:
        if not getattr(proposer, "matches", False):
            raise InputError(
                f"The length policy MatchLength needs a proposer that copies behind a match, such as lookup or suffix; "
                f"{proposer.name} drafts without one."
            )

    def cut(self, draft: Draft, memory: list[Any]) -> Int[Tensor, " B"] | None:
        assert draft.matched is not None
        return (draft.matched * self.factor + self.offset).long().clamp(min=0)
