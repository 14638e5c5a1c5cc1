"""Consultant Decoding (2506.02391, ACL 2025 Findings): keep tokens while the verifier's running surprise is small.

    r_i = beta r_{i-1} + (1 - beta) (-ln p_i(x_i)),    keep x_i if r_i <= threshold;

A sample from p replaces the first token that fails. The rule does not read q. The paper gives threshold 2.0 (about the loss that
the scaling laws converge to) and beta 0.2. It does not give r_0, whether r starts again after a rejection, or the temperature of
p, so these are options. The verifier's own tokens (corrections, bonuses) do not enter r.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, at, tokenwise
from sdbench.acceptance.draft import NEVER, Draft
from sdbench.acceptance.surprise import surprise
from sdbench.sampling import Scored
from sdbench.validate import choice, number, switch


class Consultant:
    """Test the averaged surprise, as Consultant Decoding does.

    Reads the un-warped p (the warped one if `warped`). A replacement is drawn from the warped p. Greedy form: the same test, with
    the verifier's most likely token as the replacement.

    threshold: 2.0 nats. beta: 0.2, the weight of the past, in [0, 1). initial: r_0, `first` (the average starts at the
    first token's own surprise) or `zero`. reset: `never`, or `rejection` (start again behind a rejected token).

    The memory of a row is [r, 1 once r has begun].
    """

    lossless_over = NEVER

    def __init__(
        self,
        threshold: float = 2.0,
        beta: float = 0.2,
        initial: str = "first",
        reset: str = "never",
        warped: bool = False,
    ) -> None:
        self.threshold = number("consultant.threshold", threshold, 0)
        self.beta = number("consultant.beta", beta, 0, 1, "[)")
        self.initial = choice("consultant.initial", initial, ("first", "zero"))
        self.reset = choice("consultant.reset", reset, ("never", "rejection"))
        self.warped = switch("consultant.warped", warped)

    def start(self, rows: int) -> Float[Tensor, "B 2"]:
        return self._fresh(torch.zeros(rows, 2))

    def _fresh(self, zeros: Float[Tensor, "B 2"]) -> Float[Tensor, "B 2"]:
        zeros[:, 1] = float(self.initial == "zero")
        return zeros

    def law(self, draft: Draft, p: Scored, memory: Float[Tensor, "B 2"] | None = None) -> Law:
        surprises = surprise(draft, p, self.warped)
        fresh = self._fresh(surprises.new_zeros(len(surprises), 2))
        averages = [fresh if memory is None else memory.to(surprises)]
        for each in surprises.unbind(1):
            r, begun = averages[-1].unbind(-1)
            weight = self.beta * begun
            averages.append(torch.stack([weight * r + (1 - weight) * each, torch.ones_like(each)], -1))
        history = torch.stack(averages, 1)

        def remembered(n: Int[Tensor, " B"]) -> Float[Tensor, "B 2"]:
            kept = at(history, n)
            if self.reset == "never":
                return kept
            return torch.where((n == draft.length)[:, None], kept, fresh)

        return tokenwise(draft, p, history[:, 1:, 0] <= self.threshold, memory=remembered)
