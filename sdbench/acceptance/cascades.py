"""Speculative cascades (Narasimhan et al. 2405.19261, ICLR 2025; github google-research/speculative_cascades).

A deferral rule decides where the small model is good enough. This gives a distribution pi between q and p. The exact rule is then
applied against pi: keep x with probability min(1, pi(x)/q(x)), else draw from norm((pi - q)+). So the next token has the law pi.
With a the knob, and with tests on un-warped distributions:

    chow       pi = q if max q >= 1 - a, else p                          (equation 2)     a in [0, 1]
    diff       pi = q if max q >= max p - a, else p                      (equation 5)     a in [-1, 1]
    opt        pi = q if max q >= max p - a TV(p, q), else p             (equation 10)    any a
    token_v1   A = {v: q(v) >= max p - a}                                (equation 13)    a in [-1, 1]
    token_v2   A = {v: p(v) >= max p - a}                                (equation 14)    a in [-1, 1]
    token_v3   A = {v: p(v) >= (1 - a) max p}                            (equation 15)    a in [0, 1]
               pi = q 1_A + (1 - q(A)) p

At -1, diff, token_v1 and token_v2 never trust the small model, so they are lossless. At 0, chow still trusts a certain small
model, and token_v3 still trusts the verifier's best token.
"""

from __future__ import annotations

from math import inf

from jaxtyping import Float
from torch import Tensor

from sdbench.acceptance.base import Law, Memoryless, at, ratio, residual, row, tokenwise
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, Draft
from sdbench.sampling import Scored
from sdbench.validate import choice, number

RANGES = {
    "chow": (0, 1),
    "diff": (-1, 1),
    "opt": (-inf, inf),
    "token_v1": (-1, 1),
    "token_v2": (-1, 1),
    "token_v3": (0, 1),
}


class Cascade(Memoryless):
    """Apply the exact rule against a mixture of p and q that a deferral rule makes.

    The deferral reads the un-warped p and q. Only opt's total variation reads the warped ones, as in the notebook. pi mixes the
    warped ones. The token behind a whole draft has the law p. Greedy form: pi is one-hot, at q's best token where the deferral
    trusts the small model, and at p's best token elsewhere.

    deferral: one of the six. alpha: a, how much to trust the small model. The notebook runs token_v3 with 0.5.
    """

    def __init__(self, deferral: str = "token_v3", alpha: float = 0.5) -> None:
        self.deferral = choice("cascades.deferral", deferral, RANGES)
        self.alpha = number(f"cascades.alpha (with deferral {deferral})", alpha, *RANGES[deferral])
        never = deferral in ("diff", "token_v1", "token_v2") and alpha == -1
        self.lossless_over = OVER_DRAWN if never else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        q = draft.scored(p)
        pi = self.mixture(p[:, : draft.tokens.shape[1]], q)
        return tokenwise(draft, p, ratio(pi, q.probs, draft), lambda n: residual(at(pi, n), row(q, n).probs))

    def mixture(self, p: Scored, q: Scored) -> Float[Tensor, "B K V"]:
        """Return pi."""
        trusted = self._trusted(p, q) * q.probs
        return trusted + (1 - trusted.sum(-1, keepdim=True)).clamp(min=0) * p.probs

    def _trusted(self, p: Scored, q: Scored) -> Tensor:
        """Return where the small model is trusted: [B, K, V], or [B, K, 1] if that does not depend on the token."""
        a, best = self.alpha, p.plain.amax(-1, keepdim=True)
        match self.deferral:
            case "chow":
                return q.plain.amax(-1, keepdim=True) >= 1 - a
            case "diff":
                return q.plain.amax(-1, keepdim=True) >= best - a
            case "opt":
                apart = (q.probs - p.probs).clamp(min=0).sum(-1, keepdim=True)
                return q.plain.amax(-1, keepdim=True) >= best - a * apart
            case "token_v1":
                return q.plain >= best - a
            case "token_v2":
                return p.plain >= best - a
            case _:
                return p.plain >= (1 - a) * best
