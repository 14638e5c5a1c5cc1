"""The exact rule (Leviathan et al. 2211.17192, Algorithm 1; Chen et al. 2302.01318): lossless speculative sampling.

Keep x with probability min(1, p(x) / q(x)). In place of the first rejected token, draw from norm((p - q)+). Behind a whole draft,
draw from p. Then the output has the law p for every q, as long as x was really drawn from q:

    q(x) min(1, p(x)/q(x)) + (1 - sum_y min(p(y), q(y))) norm((p - q)+)(x) = min(p, q) + (p - q)+ = p(x).
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, keep_best, ratio, residual, row, tokenwise
from sdbench.acceptance.draft import OVER_DRAWN, Draft
from sdbench.sampling import Scored


class Exact(Memoryless):
    """Apply the rejection test of Leviathan and Chen, with the residual.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    lossless_over = OVER_DRAWN

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        q = draft.scored(p)
        return tokenwise(draft, p, ratio(p.probs, q.probs, draft), lambda n: residual(row(p, n).probs, row(q, n).probs))
