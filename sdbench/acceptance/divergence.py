"""Divergences between the verifier's and the proposer's next-token distributions. The fuzzy rules test them.

With p the verifier's distribution, q the proposer's, x the drafted token and m = (p + q) / 2, in nats:

    js            KL(p||m)/2 + KL(q||m)/2, Jensen-Shannon: 0 .. ln 2
    js_fsd_code   KL(m||p)/2 + KL(m||q)/2: what the code of fuzzy speculative decoding (github maxholsman/fsd,
                  `js_div`) computes. Close to js where p and q are, larger and unbounded where they are not
    kl_pq         KL(p||q), that code's `kl_div_reversed`
    kl_qp         KL(q||p), its `kl_div`
    tv            sum |p - q| / 2, total variation: 0 .. 1
    abs_logprob   |ln p(x) - ln q(x)|
    abs_logit     |difference of x's raw logits|, which depends on what each model adds to all of its logits

Over the verifier's top k, both distributions are first summed into its k most likely tokens and one bucket for the rest (that
code's `top_k_*`, with k = 50). A drafted token outside the k belongs to the bucket.

A deterministic draft has a one-hot q. Then js and tv are falling functions of p(x) alone, and KL(q||p) = -ln p(x). The other two,
js_fsd_code and kl_pq, are infinite if p gives mass to any other token.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import taken
from sdbench.acceptance.draft import Draft, wide
from sdbench.errors import InputError
from sdbench.sampling import Scored
from sdbench.validate import choice, switch, whole


def kl(log_p: Float[Tensor, "*batch V"], log_q: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Return KL(p||q) = sum p (ln p - ln q), from logarithms, because a probability may be too small for its type."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def _middle(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.logaddexp(log_p, log_q) - log(2)


def js(log_p: Float[Tensor, "*batch V"], log_q: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Return the Jensen-Shannon divergence."""
    log_m = _middle(log_p, log_q)
    return 0.5 * (kl(log_p, log_m) + kl(log_q, log_m))


def js_fsd_code(log_p: Float[Tensor, "*batch V"], log_q: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Return KL(m||p)/2 + KL(m||q)/2 = KL(m || the geometric mean of p and q)."""
    return kl(_middle(log_p, log_q), 0.5 * (log_p + log_q))


def tv(log_p: Float[Tensor, "*batch V"], log_q: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Return the total variation."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


OVER_DISTRIBUTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "js": js,
    "js_fsd_code": js_fsd_code,
    "kl_pq": kl,
    "kl_qp": lambda log_p, log_q: kl(log_q, log_p),
    "tv": tv,
}
OF_THE_TOKEN = ("abs_logprob", "abs_logit")
UNBOUNDED = ("js_fsd_code", "kl_pq")  # infinite if q gives no mass to a token that p gives some
DIVERGENCES = (*OVER_DISTRIBUTIONS, *OF_THE_TOKEN)


class Divergence:
    """Compute a divergence by its name.

    name: one of DIVERGENCES. top_k: over the verifier's top k and one bucket for the rest (None: over the vocabulary).
    warped: of the warped distributions, which are sampled from, in place of the un-warped ones at temperature 1.
    """

    def __init__(self, name: str, top_k: int | None = None, warped: bool = False) -> None:
        self.name = choice("divergence", name, DIVERGENCES)
        self.top_k = None if top_k is None else whole("top_k", top_k, 1)
        self.warped = switch("warped", warped)
        if warped and name == "abs_logit":
            raise InputError(
                "warped is true with divergence abs_logit, which is defined on raw logits; set warped to false."
            )

    def __call__(self, draft: Draft, p: Scored) -> Float[Tensor, "B K"]:
        """Return the divergence at every drafted token: NaN, which passes no threshold, if neither side gives the token mass."""
        q, p = draft.scored(p), p[:, : draft.tokens.shape[1]]
        ours, theirs, tokens = self._logarithms(p), self._logarithms(q), draft.tokens
        if self.top_k is not None and self.top_k < ours.shape[-1]:
            ours, theirs, tokens = bucketed(ours, theirs, tokens, self.top_k)
        if self.name in OF_THE_TOKEN:
            return (taken(ours, tokens) - taken(theirs, tokens)).abs()
        return OVER_DISTRIBUTIONS[self.name](ours, theirs)

    def _logarithms(self, scored: Scored) -> Float[Tensor, "B K V"]:
        if self.name == "abs_logit":
            return scored.logits.to(wide(scored.logits))
        if self.warped:
            return scored.probs.log()
        return scored.logits.log_softmax(-1, dtype=wide(scored.logits))


def bucketed(
    log_p: Float[Tensor, "B K V"], log_q: Float[Tensor, "B K V"], tokens: Int[Tensor, "B K"], k: int
) -> tuple[Float[Tensor, "B K k1"], Float[Tensor, "B K k1"], Int[Tensor, "B K"]]:
    """Return both sides and the tokens over p's k most likely tokens and one bucket for the rest, which comes last."""
    kept = log_p.topk(k, dim=-1).indices

    def summed_up(logs: Tensor) -> Tensor:
        rest = logs.scatter(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logs.gather(-1, kept), rest], -1)

    same = kept == tokens[..., None]
    bucket = torch.cat([same, ~same.any(-1, keepdim=True)], -1).int().argmax(-1)
    return summed_up(log_p), summed_up(log_q), bucket
