"""Block verification (Sun et al. 2403.10444): the exact rule made joint. It keeps more tokens, and the output has the same law.

The share P_n is the probability that at least n tokens are kept, if the first n are x_1 .. x_n:

    P_0 = 1,    P_n = min(1, P_{n-1} p(x_n) / q(x_n)).

The rule goes back from the end of the draft, and stops at the first n that a coin chooses:

    at the end (n = K) with probability P_K,
    before it with probability D / (D + 1 - P_n), where D = sum_x (P_n p(x) - q(x))+.

At n = 0 it always stops. The token behind n < K kept ones has the law norm((P_n p - q)+), and the bonus has the law p. The paper
proves that the rule keeps most tokens in the mean among the lossless ones that judge each round by itself, so never fewer than the
exact rule. For one token it is the exact rule.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, Memoryless, at, keep_best, normalised, row, taken
from sdbench.acceptance.draft import OVER_DRAWN, Draft
from sdbench.sampling import Scored


class Block(Memoryless):
    """Apply block verification to a chain.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    lossless_over = OVER_DRAWN

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        q = draft.scored(p)
        shares = self.shares(taken(p.probs, draft.tokens), taken(q.probs, draft.tokens))
        stops = self.stops(p.probs[:, :-1], q.probs, shares[:, :-1])
        return backward(draft, p, q, shares, stops)

    def shares(self, p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]) -> Float[Tensor, "B K1"]:
        """Return P_0 .. P_K. p, q: the probabilities of the drafted tokens."""
        shares = [p.new_ones(len(p))]
        for n in range(p.shape[1]):
            shares.append((shares[-1] * p[:, n] / q[:, n]).nan_to_num(nan=0.0).clamp(max=1))
        return torch.stack(shares, 1)

    def stops(
        self, p: Float[Tensor, "B K V"], q: Float[Tensor, "B K V"], shares: Float[Tensor, "B K"]
    ) -> Float[Tensor, "B K"]:
        """Return the probability of a stop at each n before the end. p, q: the laws of the token behind n kept ones."""
        return stop((shares[..., None] * p - q).clamp(min=0).sum(-1), shares)


def stop(above: Float[Tensor, "*batch"], share: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return D / (D + 1 - P). Where p and q agree and P is 1, no draft gets to the coin; it then stops."""
    total = above + (1 - share)  # so ordered, the quotient is never above 1
    return torch.where(total > 0, above / total, 1.0)


def backward(draft: Draft, p: Scored, q: Scored, shares: Float[Tensor, "B K1"], stops: Float[Tensor, "B K"]) -> Law:
    """Return the law of a rule that goes back from the end of a draft until it stops.

    p, q: [B, K+1, V] and [B, K, V], the scores of verifier and proposer. shares: P_0 .. P_K.
    stops: the probability of a stop at n = 0 .. K - 1, given that the rule gets there. At 0 it always stops. At the end
        of the draft the probability is the share.
    """
    places = torch.arange(shares.shape[1], device=shares.device)
    length = draft.length[:, None]
    stops = torch.cat([stops, shares[:, -1:]], 1)
    stops = torch.where(places < length, stops, torch.where(places == length, shares, 0.0))
    stops = torch.where(places == 0, 1.0, stops)
    going = (1 - stops).flip(1).cumprod(1).flip(1)  # no stop at n or behind it
    arrives = torch.cat([going[:, 1:], torch.ones_like(going[:, :1])], 1)

    def next_token(n: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        if not draft.tokens.shape[1]:
            return row(p, n).probs
        of_q = row(q, n.clamp(max=draft.tokens.shape[1] - 1)).probs
        rest = normalised((at(shares, n)[:, None] * row(p, n).probs - of_q).clamp(min=0))
        return torch.where((n == draft.length)[:, None], row(p, n).probs, rest)

    return Law(arrives * stops, next_token)
