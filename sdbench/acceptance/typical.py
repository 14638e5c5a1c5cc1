"""Typical acceptance (Medusa, Cai et al. 2401.10774; github FasterDecoding/Medusa, `evaluate_posterior`).

Keep x if p(x) > min(posterior_threshold, posterior_alpha exp(-H(p))). The less certain the verifier is, the lower the threshold.
The rule does not read q. A replacement is a sample from p. The next token has the law

    q(x) 1[x passes] + (q's mass that fails) p(x).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, keep_best, taken, tokenwise
from sdbench.acceptance.draft import Draft
from sdbench.acceptance.walk import TokenRule
from sdbench.sampling import Scored
from sdbench.validate import number


class Typical(TokenRule):
    """Apply Medusa's typical acceptance. On a tree the first child that passes is kept; Medusa keeps the longest path that passes.

    Reads the warped p, because the paper's p is at the sampling temperature. The entropy H has 1e-5 inside the logarithm, as in the
    code. Greedy form: keep the tokens that are the verifier's most likely ones.

    posterior_threshold: 0.09. posterior_alpha: 0.3, its square root. The code's callers pass these values. (The default arguments
    of `evaluate_posterior` have the two swapped.)
    """

    def __init__(self, posterior_threshold: float = 0.09, posterior_alpha: float = 0.3) -> None:
        self.posterior_threshold = number("typical.posterior_threshold", posterior_threshold, 0, 1)
        self.posterior_alpha = number("typical.posterior_alpha", posterior_alpha, 0)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        probs = p.probs[:, : draft.tokens.shape[1]]
        return tokenwise(draft, p, taken(probs, draft.tokens) > self._asked(probs))

    def test(self, p: Scored, q: Scored, x: Int[Tensor, " M"], left: Float[Tensor, "M V"]):
        kept = p.probs.gather(-1, x[:, None])[:, 0] > self._asked(p.probs)
        return kept.to(left.dtype), left

    def _asked(self, probs: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
        """Return the probability that a token must exceed, from the verifier's distributions."""
        entropy = -(probs * (probs + 1e-5).log()).sum(-1)
        return (self.posterior_alpha * (-entropy).exp()).clamp(max=self.posterior_threshold)
