"""The match rule: keep a drafted token if the verifier's own draw is the same token.

The verifier draws y from p. Keep x if x = y, else put y in its place. As a law this is the exact rule over a deterministic q: keep
x with probability p(x), else draw from p without x, renormalised. The rule reads no q, so the output has the law p over any draft.
It is transformers' assisted generation without draft logits (`GenerationMixin._assisted_decoding`, case 2), and SpecInfer's naive
sampling (2305.09781).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import Law, at, keep_best, normalised, row, taken, tokenwise
from sdbench.acceptance.draft import OVER_ANY, Draft
from sdbench.acceptance.walk import TokenRule
from sdbench.sampling import Scored


class Match(TokenRule):
    """Keep the tokens that the verifier would have chosen itself.

    Reads the warped p. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    lossless_over = OVER_ANY

    def test(self, p: Scored, q: Scored, x: Int[Tensor, " M"], left: Float[Tensor, "M V"]):
        return left.gather(-1, x[:, None])[:, 0], without(left, x)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        return tokenwise(
            draft, p, taken(p.probs, draft.tokens), lambda n: without(row(p, n).probs, at(draft.tokens, n))
        )


def without(probs: Float[Tensor, "B V"], tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """Return probs without the mass of tokens[b], renormalised."""
    return normalised(probs.scatter(-1, tokens[:, None], 0.0))
