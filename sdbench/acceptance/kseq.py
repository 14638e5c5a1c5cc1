"""K-SEQ (SpecTr, Sun et al. 2310.15141): several candidates drawn independently from q, each accepted against p / rho.

The i-th of k candidates is kept with probability min(1, p(x) / (rho q(x))), for the first that passes. With beta(rho) =
sum_x min(q(x), p(x) / rho), a candidate passes with probability beta, and one of them with P = 1 - (1 - beta)^k. The token in place
of k refused ones has the law

    norm(p - min(q, p / rho) P / beta).

rho* in [1, k] solves P = rho beta. There the residual is non-negative, and the rule is (1 - 1/e)-optimal among all couplings of k
independent candidates. For k = 1 it is the exact rule.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import normalised
from sdbench.acceptance.draft import ProposalKind
from sdbench.acceptance.walk import SiblingRule
from sdbench.sampling import Scored
from sdbench.validate import number

_HALVINGS = 60  # of an interval of length k: rho* to the last digit of float64


class KSeq(SiblingRule):
    """Apply K-SEQ to the children of each node. They must be drawn independently (`siblings: with`).

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones.

    rho: a number of at least 1, or None for rho*. A smaller rho than rho* leaves a negative residual, so it is raised to rho*.
    """

    lossless_over = frozenset({ProposalKind.SAMPLED})
    siblings_drawn = "with"

    def __init__(self, rho: float | None = None) -> None:
        self.rho = None if rho is None else number("kseq.rho", rho, 1)

    def siblings(
        self, p: Scored, q: Scored, xs: Int[Tensor, "M W"]
    ) -> tuple[Float[Tensor, "M W"], Float[Tensor, "M V"]]:
        of_p, of_q, k = p.probs, q.probs[:, 0], xs.shape[1]
        rho = best_rho(of_p, of_q, k)
        if self.rho is not None:
            rho = rho.clamp(min=self.rho)
        kept = torch.minimum(of_q, of_p / rho[:, None])
        beta = kept.sum(-1)
        one = 1 - (1 - beta) ** k
        passes = (of_p.gather(-1, xs) / (rho[:, None] * of_q.gather(-1, xs))).nan_to_num(nan=0.0).clamp(max=1)
        before = torch.cat([torch.ones_like(passes[:, :1]), (1 - passes[:, :-1]).cumprod(-1)], 1)
        share = torch.where(beta > 0, one / beta, 0.0)
        return before * passes, normalised((of_p - kept * share[:, None]).clamp(min=0))


def best_rho(p: Float[Tensor, "M V"], q: Float[Tensor, "M V"], k: int) -> Float[Tensor, " M"]:
    """Return rho*, by bisection: the smallest rho in [1, k] at which P is at most rho beta."""
    low, high = torch.ones_like(p[:, 0]), torch.full_like(p[:, 0], float(k))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        beta = torch.minimum(q, p / middle[:, None]).sum(-1)
        fits = 1 - (1 - beta) ** k <= middle * beta
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return high
