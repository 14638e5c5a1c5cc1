"""The exact rule (Leviathan et al. 2211.17192, Algorithm 1; Chen et al. 2302.01318): lossless speculative sampling.

Keep x with probability min(1, p(x) / q(x)). In place of the first rejected token, draw from norm((p - q)+). Behind a whole draft,
draw from p. Then the output has the law p for every q, as long as x was really drawn from q:

    q(x) min(1, p(x)/q(x)) + (1 - sum_y min(p(y), q(y))) norm((p - q)+)(x) = min(p, q) + (p - q)+ = p(x).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, keep_best, ratio, residual, row, tokenwise
from sdbench.acceptance.draft import OVER_DRAWN, Draft
from sdbench.acceptance.walk import TokenRule
from sdbench.sampling import Scored


class Exact(TokenRule):
    """Apply the rejection test of Leviathan and Chen, with the residual.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    lossless_over = OVER_DRAWN

    def test(self, p: Scored, q: Scored, x: Int[Tensor, " M"], left: Float[Tensor, "M V"]):
        among = torch.arange(len(x), device=x.device)
        passes = (left[among, x] / q.probs[among, x]).nan_to_num(nan=0.0).clamp(max=1)
        return passes, residual(left, q.probs)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        q = draft.scored(p)
        return tokenwise(draft, p, ratio(p.probs, q.probs, draft), lambda n: residual(row(p, n).probs, row(q, n).probs))
