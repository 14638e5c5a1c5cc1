"""`MyRule`: keep a drafted token more readily than the exact rule does.

The example is lenience (Leviathan et al. 2211.17192, Appendix A.5). At the position of the drafted token x, p is the verifier's
distribution and q the proposer's. The rule keeps x with the probability

    a(x) = min(1, p(x) / (lenience q(x))).

It replaces the first token that it rejects by a draw from norm((p - q)+). With lenience = 1 this is the exact rule.
"""

from __future__ import annotations

from math import log

from jaxtyping import Float
from torch import Tensor

from sdbench.acceptance import Draft, Law, Memoryless, tokenwise
from sdbench.acceptance.base import residual, row, taken
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, wide
from sdbench.sampling import Scored
from sdbench.validate import number


class MyRule(Memoryless):
    """Test one drafted token after another. The rule draws nothing: it states probabilities.

    lenience: a number in (0, 1]. 1 is the exact rule; a smaller value keeps more tokens and is lossy.
    """

    def __init__(self, lenience: float = 0.5) -> None:
        self.lenience = number("my_rule.lenience", lenience, 0, 1, "(]")
        # For which kinds of drafts the output has exactly the verifier's distribution. A lossy rule says NEVER.
        self.lossless_over = OVER_DRAWN if lenience == 1 else NEVER

    def law(self, draft: Draft, p: Scored, memory: Float[Tensor, "B M"] | None = None) -> Law:
        """Return the law of the number of kept tokens, and of the token that follows them.

        draft.tokens: [B, K], K drafted tokens in each of B rows. p.probs: [B, K + 1, V], the verifier's distribution at each
        drafted token and behind the last one. q.probs: [B, K, V]. memory: None, because the rule keeps no state.
        """
        if p.sampling.greedy:
            passes = self._greedy(draft, p)
            return tokenwise(draft, p, passes)  # without a replacement, the verifier's most likely token follows

        q = draft.scored(p)
        p_of_x = taken(p.probs, draft.tokens)  # [B, K]
        q_of_x = taken(q.probs, draft.tokens)  # [B, K]
        passes = p_of_x / (self.lenience * q_of_x)
        # Make it a probability, because `tokenwise` does not check it. 0 / 0 occurs in the padding of a short draft.
        passes = passes.nan_to_num(nan=0.0).clamp(max=1)
        # n: [B] kept tokens. The replacement [B, V] is computed for the positions of the first rejected tokens only.
        # Without the argument `replacement` it is drawn from p.
        return tokenwise(draft, p, passes, replacement=lambda n: residual(row(p, n).probs, row(q, n).probs))

    def _greedy(self, draft: Draft, p: Scored) -> Tensor:
        """Say which tokens are kept at temperature 0, [B, K]: those with p(x) >= lenience max(p), before warping."""
        logits = p.logits[:, : draft.tokens.shape[1]].to(wide(p.logits))  # [B, K, V]
        return taken(logits, draft.tokens) >= logits.amax(-1) + log(self.lenience)
