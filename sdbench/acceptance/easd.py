"""Entropy-aware speculative decoding (EASD, 2512.23765): refuse a token where both models are unsure of the same candidates.

The rule adds a refusal to the exact rule. Let H be the entropy and top_N the set of the N most likely tokens. x is refused if

    H(q) > h_D    and    H(p) > h_T    and    |top_N(p) and top_N(q)| / N >= rho.

The target then draws again, without x. Elsewhere the exact rule decides, with its test and its residual. So the rule is stricter
than the exact one: the paper aims at better answers, not at speed. It gives no thresholds, so the defaults are this project's
choice. Its reviews ask whether the exact test comes first. Either order refuses the same tokens where all three conditions hold.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, Memoryless, at, ratio, residual, row, tokenwise
from sdbench.acceptance.draft import NEVER, Draft, wide
from sdbench.sampling import Scored
from sdbench.validate import number, switch, whole


class EASD(Memoryless):
    """Apply the exact rule, and refuse tokens where both models are unsure of the same candidates.

    The entropies and the candidates read the un-warped p and q (the warped ones if `warped`). The exact test and its residual
    read the warped ones. "p without x" removes x before warping, so it is a distribution under every top-k and top-p. Greedy
    form: keep the verifier's most likely tokens, except where the rule refuses them; the best other token then replaces x. A
    deterministic q has no entropy, so over such drafts this is the exact rule.

    draft_entropy, target_entropy: h_D and h_T, in nats. top_n: N. overlap: rho.
    """

    lossless_over = NEVER

    def __init__(
        self,
        draft_entropy: float = 1.0,
        target_entropy: float = 1.0,
        top_n: int = 10,
        overlap: float = 0.8,
        warped: bool = False,
    ) -> None:
        self.draft_entropy = number("easd.draft_entropy", draft_entropy, 0)
        self.target_entropy = number("easd.target_entropy", target_entropy, 0)
        self.top_n = whole("easd.top_n", top_n, 1)
        self.overlap = number("easd.overlap", overlap, 0, 1)
        self.warped = switch("easd.warped", warped)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        q = draft.scored(p)
        unsure = self._unsure(p[:, : draft.tokens.shape[1]], q)
        if p.sampling.greedy:
            passes = (draft.tokens == p.best[:, : draft.tokens.shape[1]]).to(wide(p.logits))
        else:
            passes = ratio(p.probs, q.probs, draft)

        def replacement(n: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
            here = row(p, n)
            again = Scored(here.logits.scatter(-1, at(draft.tokens, n)[:, None], -torch.inf), p.sampling).probs
            own = here.probs if p.sampling.greedy else residual(here.probs, row(q, n).probs)
            return torch.where(at(unsure, n)[:, None], again, own)

        return tokenwise(draft, p, passes.masked_fill(unsure, 0), replacement)

    def _unsure(self, p: Scored, q: Scored) -> Bool[Tensor, "B K"]:
        """Return where both models are unsure of the same candidates."""
        ours, its = (p.probs, q.probs) if self.warped else (p.plain, q.plain)
        count = min(self.top_n, ours.shape[-1])
        candidates = ours.topk(count).indices[..., None] == its.topk(count).indices[..., None, :]
        shared = candidates.any(-1).sum(-1) / count
        both = (_entropy(its) > self.draft_entropy) & (_entropy(ours) > self.target_entropy)
        return both & (shared >= self.overlap)


def _entropy(probs: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
    """Return the entropy in nats."""
    return torch.special.entr(probs).sum(-1)
