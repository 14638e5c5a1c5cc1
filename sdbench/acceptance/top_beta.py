"""The test of SpecDec (2203.16487, Spec-Verification): a token is kept if it is likely enough for the verifier.

Keep x if it is among the verifier's `beta` most likely tokens and log p(x) >= max log p - tau. The rule does not read q.
With beta = 1 it is exact greedy matching.
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, taken, tokenwise
from sdbench.acceptance.draft import Draft
from sdbench.sampling import Scored
from sdbench.validate import number, whole


class TopBeta(Memoryless):
    """Apply SpecDec's test of rank and gap.

    Reads the un-warped p. Tokens that tie with the beta-th are included. A replacement is drawn from the warped p; the source has
    only the greedy form.

    beta, tau: 5 and 3.0 nats, the values of the source's code (docs/references: FA C.8).
    """

    def __init__(self, beta: int = 5, tau: float = 3.0) -> None:
        self.beta = whole("top_beta.beta", beta, 1)
        self.tau = number("top_beta.tau", tau, 0)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        probs = p[:, : draft.tokens.shape[1]].plain
        its = taken(probs, draft.tokens)
        likely = (probs > its[..., None]).sum(-1) < self.beta
        return tokenwise(draft, p, likely & (its.log() >= probs.amax(-1).log() - self.tau))
