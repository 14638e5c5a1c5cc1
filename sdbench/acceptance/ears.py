"""Efficient adaptive rejection sampling (EARS, 2512.13194): the exact test, with a tolerance where the target is unsure.

    tolerance = beta (1 - max p),    keep x if p(x) / q(x) >= u - tolerance, for u uniform in [0, 1],

that is with probability min(1, p(x)/q(x) + tolerance). The tolerance is the paper's. The test is inferred from its abstract and one
incomplete note. The replacement is not stated either: here it is the exact rule's norm((p - q)+). So the next token has the law

    q a + (1 - sum q a) norm((p - q)+),    a = min(1, p/q + tolerance).
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, ratio, residual, row, taken, tokenwise
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, Draft
from sdbench.sampling import Scored
from sdbench.validate import number


class EARS(Memoryless):
    """Apply the exact test with a tolerance that grows with the verifier's uncertainty.

    Reads the warped p and q. Greedy form, on the un-warped p: keep x if p(x) >= (1 - tolerance) max p, else take p's most likely
    token. The paper has no greedy form; this one is lenience with l = 1 - tolerance.

    beta: the tolerance of a verifier that has no idea; 0 is the exact rule. The paper's value is not known, and the default is
    this project's choice.
    """

    def __init__(self, beta: float = 0.1) -> None:
        self.beta = number("ears.beta", beta, 0, 1)
        self.lossless_over = OVER_DRAWN if beta == 0 else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        K = draft.tokens.shape[1]
        if p.sampling.greedy:
            plain = p[:, :K].plain
            best = plain.amax(-1)
            near = taken(plain, draft.tokens) >= (1 - self.beta * (1 - best)) * best
            return tokenwise(draft, p, near)
        q = draft.scored(p)
        tolerance = self.beta * (1 - p.probs[:, :K].amax(-1))
        passes = (ratio(p.probs, q.probs, draft) + tolerance).clamp(max=1)
        return tokenwise(draft, p, passes, lambda n: residual(row(p, n).probs, row(q, n).probs))
