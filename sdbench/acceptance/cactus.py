"""Cactus, constrained acceptance speculative sampling (Hao, Mou, ICLR 2026; github MANGA-UOFA/Cactus, `cactus.py`).

The rule bends the verifier's distribution towards the drafted token x, within a divergence budget delta:

    h(x) = min(1, p(x) + sqrt(2 delta p(x) (1 - p(x)))),    h(v) = p(v) (1 - h(x)) / (1 - p(x)) for the others;

Then it applies the exact rule against h: keep x with probability min(1, h(x) / q(x)), else draw from norm((h - q)+). Since h
depends on x, the next token has the law sum_x q(x) [a(x) 1_x + (1 - a(x)) norm((h_x - q)+)].
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, Memoryless, at, keep_best, residual, row, taken, tokenwise
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, Draft
from sdbench.sampling import Scored
from sdbench.validate import number


class Cactus(Memoryless):
    """Apply the exact rule against a p that is bent towards the drafted token.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones (a one-hot p does
    not bend).

    delta: the budget; 0 is the exact rule; 1.0 is the README's example.
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = number("cactus.delta", delta, 0)
        self.lossless_over = OVER_DRAWN if delta == 0 else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        q = draft.scored(p)
        passes = self._raised(taken(p.probs, draft.tokens)) / taken(q.probs, draft.tokens)
        return tokenwise(
            draft,
            p,
            passes.nan_to_num(nan=0.0).clamp(max=1),
            lambda n: residual(self._bent(row(p, n).probs, at(draft.tokens, n)), row(q, n).probs),
        )

    def _raised(self, its: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return h(x). its: p(x)."""
        return (its + (2 * self.delta * its * (1 - its)).clamp(min=0).sqrt()).clamp(max=1)

    def _bent(self, probs: Float[Tensor, "B V"], tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        its = probs.gather(-1, tokens[:, None])
        raised = self._raised(its)
        # If p(x) = 1, no other token has mass to scale.
        return (probs * ((1 - raised) / (1 - its)).nan_to_num(nan=1.0)).scatter(-1, tokens[:, None], raised)
