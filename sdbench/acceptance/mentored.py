"""Mentored decoding (Tran-Thien 2023, notebook github vivien000/mentored_decoding; Tran-Thien, Nock 2609.30474).

Of all distributions pi with KL(p||pi) <= D, the one that keeps the most drafted tokens is q, clipped to the
neighbourhood of p:

    pi = clip(q, p/beta, p/alpha),    alpha <= 1 <= beta,

with alpha and beta such that pi sums to one and KL(p||pi) = D. Keep x with probability min(1, p(x) / (alpha q(x))), else draw from
norm((p/beta - q)+). The next token then has the law pi. Where KL(p||q) <= D (1 + tolerance), every x is kept.

As in the notebook, at most ten bisections of (0, 1) find alpha, and they stop within D (1 +- tolerance). Otherwise alpha is the
last one that stayed below, or 1, the exact rule, if none did. Then beta follows: clipping at p/alpha takes mass away, and clipping
at p/beta must give it back,

    excess = sum (q - p/alpha)+,    sum (p/beta - q)+ = excess.

In the order of p/q, a prefix of the tokens is clipped from above and a suffix from below, so running sums give all of this. (In the
notebook the index of this suffix is off by one, so its pi is not quite normalised. Here it is.)
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.acceptance.base import Law, Memoryless, at, keep_best, residual, row, taken, tokenwise
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, Draft
from sdbench.sampling import Scored
from sdbench.validate import number

BISECTIONS = 10


class Mentored(Memoryless):
    """Apply the exact rule against the distribution nearest to q within a Kullback-Leibler budget.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones. (Between one-hot
    distributions the divergence is zero or infinite.)

    budget: D in nats per token; 0 is the exact rule. The notebook tries 0, 0.1, 0.15 and 0.2 and names no default.
    tolerance: 0.2, by which D may be missed.
    """

    def __init__(self, budget: float = 0.1, tolerance: float = 0.2) -> None:
        self.budget = number("mentored.budget", budget, 0)
        self.tolerance = number("mentored.tolerance", tolerance, 0, 1, "[)")
        self.lossless_over = OVER_DRAWN if budget == 0 else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        q = draft.scored(p)
        alpha, beta = self.bounds(p.probs[:, : draft.tokens.shape[1]], q.probs)
        passes = taken(p.probs, draft.tokens) / (alpha * taken(q.probs, draft.tokens))

        def replacement(n: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
            return residual(row(p, n).probs, at(beta, n)[:, None] * row(q, n).probs)

        passes = passes.nan_to_num(nan=0.0).clamp(max=1).masked_fill(alpha == 0, 1.0)
        return tokenwise(draft, p, passes, replacement)

    def bounds(
        self, p: Float[Tensor, "B K V"], q: Float[Tensor, "B K V"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return alpha and beta at every position. alpha is 0 where every token is kept."""
        one = torch.ones_like(p[..., 0])
        if self.budget == 0:
            return one, one
        sums = _Sums.of(p, q)
        least, most = self.budget * (1 - self.tolerance), self.budget * (1 + self.tolerance)
        low, high, alpha, beta = torch.zeros_like(one), one, one, one
        found = sums.p_log_slope[..., -1] <= most  # KL(p||q)
        alpha = torch.where(found, 0.0, alpha)
        for _ in range(BISECTIONS):
            tried = (low + high) / 2
            its_beta, divergence = sums.clipped(tried)
            below, within = divergence < least, (divergence >= least) & (divergence <= most)
            better = ~found & (below | within)
            alpha, beta = torch.where(better, tried, alpha), torch.where(better, its_beta, beta)
            high, low = torch.where(below, tried, high), torch.where(below, low, tried)
            found = found | within
        return alpha, beta


class _Sums(NamedTuple):
    """Hold running sums over the tokens in the order of p/q: over the first j for entry j, or from j on (`behind`)."""

    slope: Float[Tensor, "B K V"]  # p/q, in rising order
    p: Float[Tensor, "B K V+1"]
    q: Float[Tensor, "B K V+1"]
    p_log_slope: Float[Tensor, "B K V+1"]
    behind_p: Float[Tensor, "B K V"]
    behind_q: Float[Tensor, "B K V"]
    lacking: Float[
        Tensor, "B K V"
    ]  # minus the mass that clipping at p/beta gives back, with beta at this slope; it rises

    @staticmethod
    def of(p: Float[Tensor, "B K V"], q: Float[Tensor, "B K V"]) -> _Sums:
        # A token without mass on both sides may come anywhere, so it comes first.
        slope, order = (p / q).nan_to_num(nan=0.0, posinf=inf).sort(-1)
        p, q = p.gather(-1, order), q.gather(-1, order)
        p_log_slope = torch.where(p > 0, p * slope.log(), 0.0)
        ahead_p, ahead_q, ahead_log = (pad(each.cumsum(-1), (1, 0)) for each in (p, q, p_log_slope))
        behind_p, behind_q = (each.flip(-1).cumsum(-1).flip(-1) for each in (p, q))
        lacking = behind_q - torch.where(slope > 0, behind_p / slope, inf)
        return _Sums(slope, ahead_p, ahead_q, ahead_log, behind_p, behind_q, lacking)

    def clipped(self, alpha: Float[Tensor, "B K"]) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return beta and KL(p||pi) for each alpha."""
        alpha = alpha[..., None]
        above = torch.searchsorted(self.slope, alpha, right=True)
        excess = self.q.gather(-1, above) - self.p.gather(-1, above) / alpha
        # beta is the slope at which the mass that clipping at p/beta gives back passes the excess.
        below = torch.searchsorted(self.lacking, -excess).clamp(max=self.slope.shape[-1] - 1)
        mass = self.behind_p.gather(-1, below)
        beta = mass / (excess + self.behind_q.gather(-1, below))
        middle = self.p_log_slope.gather(-1, below) - self.p_log_slope.gather(-1, above)
        divergence = alpha.log() * self.p.gather(-1, above) + middle + beta.log() * mass
        return beta[..., 0], divergence[..., 0]
