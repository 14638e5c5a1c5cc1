"""Static ensemble verification (DIVERSED, 2604.07622), as transformers' `assistant_ensemble_weight` does it (5.23).

The exact rule against v = w p + (1 - w) q: keep x with probability min(1, v(x)/q(x)) = 1 - w + w min(1, p(x)/q(x)). The library
draws the replacement from norm((p - q)+), and from p where nothing is left. This is also the residual of v, because
v - q = w (p - q). So the next token has the law v.
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, at, one_hot, ratio, residual, row, tokenwise
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, Draft
from sdbench.sampling import Scored
from sdbench.validate import number


class Ensemble(Memoryless):
    """Apply the exact rule against a fixed mixture of p and q.

    Reads the warped p and q. The token behind a whole draft has the law p. Greedy form: keep the most likely tokens of v, computed
    from the un-warped p and q, and replace by them. (The library refuses a draft without scores. Here its q is one-hot.)

    weight: w in (0, 1], the verifier's weight; 1 is the exact rule. The library's default is off, and it names no other value.
    """

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = number("ensemble.weight", weight, 0, 1, "(]")
        self.lossless_over = OVER_DRAWN if weight == 1 else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        q, w = draft.scored(p), self.weight
        if p.sampling.greedy:
            best = (w * p[:, : draft.tokens.shape[1]].plain + (1 - w) * q.plain).argmax(-1)
            return tokenwise(draft, p, draft.tokens == best, lambda n: one_hot(at(best, n), p.logits))
        passes = 1 - w + w * ratio(p.probs, q.probs, draft)
        return tokenwise(draft, p, passes, lambda n: residual(row(p, n).probs, row(q, n).probs))
