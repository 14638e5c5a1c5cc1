"""The interface of a length policy, which says how far to draft.

A policy sees what a stage has verified before, the draft's own distributions, and the tokens that it keeps. It never reads the
value of a token that it then drops. Dropping a token because of its value changes the law of the verified tokens
(docs/references/families.md, FA B.1).

A policy object holds its knobs only. What it remembers belongs to one sequence, so that a seed gives the same tokens at every batch
size. `PolicyRows` keeps these memories, and starts one anew when a sequence takes a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.base import Proposer
from sdbench.drafting.lengths.times import StageTimes
from sdbench.errors import InputError
from sdbench.sampling import Scored


class LengthPolicy:
    """Say how far a stage drafts. Override what the policy needs: by default it drafts as far as it may.

    applied_by: the class of the proposer that applies the policy, where `Limited` is not enough.
    """

    applied_by: Any = None

    @property
    def reads_q(self) -> bool:
        """Say whether the policy needs the draft's distributions."""
        return type(self).go_on is not LengthPolicy.go_on

    def check(self, proposer: Proposer) -> None:
        """Refuse a proposer that lacks what the policy reads. Raises: InputError."""
        if self.reads_q and proposer.kind is ProposalKind.DETERMINISTIC:
            raise InputError(
                f"The length policy {type(self).__name__} reads the draft's probabilities, and {proposer.name or 'the arm'} has "
                "none: take a policy without them, such as heuristic or match, or a draft model."
            )

    def start(self) -> Any:
        """Return the memory of a new sequence."""
        return None

    def length(self, memory: Any, most: int) -> int:
        """Return how many tokens to draft in this round, before drafting. most: the stage's draft length, K."""
        return most

    def go_on(
        self, scored: Scored, token: Int[Tensor, " B"], depth: int | np.ndarray, memory: list[Any]
    ) -> Bool[Tensor, " B"] | None:
        """Return the rows that draft on behind a token that the draft keeps; None for all.

        scored: [B, V], what the token was drawn from. depth: the number of drafted tokens before it, of all rows or [B].
        memory: by row.
        """
        return None

    def cut(self, draft: Draft, memory: list[Any]) -> Int[Tensor, " B"] | None:
        """Return how many tokens of a finished draft to verify in each row, from no token's value; None for all."""
        return None

    def learn(self, memory: Any, proposed: int, accepted: int, most: int) -> Any:
        """Return the memory behind a verification that kept `accepted` of `proposed` (at least 1) tokens. most: K."""
        return memory

    def calibrate(self, times: StageTimes) -> bool:
        """Set what the policy derives from the times of a warm-up. Return whether anything changed."""
        return False


class PolicyRows:
    """Apply a policy to the rows of a session. most: K."""

    def __init__(self, policy: LengthPolicy, rows: int, most: int) -> None:
        self.policy, self.most = policy, most
        self.memory = [policy.start() for _ in range(rows)]

    def admit(self, row: int) -> None:
        """Forget the memory of a row: a new sequence takes it."""
        self.memory[row] = self.policy.start()

    def lengths(self, active: Sequence[bool]) -> list[int]:
        """Return how many tokens each row drafts, from 1 to K. Rows that are not active have 1."""
        rows = zip(active, self.memory, strict=True)
        return [min(max(self.policy.length(memory, self.most), 1), self.most) if on else 1 for on, memory in rows]

    def stopped(self, tokens: Int[Tensor, "B K"], q: Scored) -> Int[Tensor, " B"]:
        """Return where the policy stops in a draft that is finished already, as the number of tokens that it keeps."""
        going, counts = torch.ones_like(tokens[:, 0], dtype=torch.bool), torch.ones_like(tokens[:, 0])
        for depth in range(tokens.shape[1] - 1):
            on = self.policy.go_on(q[:, depth], tokens[:, depth], depth, self.memory)
            going = going if on is None else going & on
            counts = counts + going
        return counts

    def learn(self, row: int, proposed: int, accepted: int) -> None:
        """Note a verification. An empty draft teaches nothing."""
        if proposed:
            self.memory[row] = self.policy.learn(self.memory[row], proposed, accepted, self.most)
