"""Lenience (Leviathan et al. 2211.17192, Appendix A.5): the exact test, with q made smaller.

Keep x with probability f(x) = min(1, p(x) / (l q(x))). No token then has a probability above p(x) / l. A replacement is drawn from
the residual of f, norm((p - f q)+). This is norm((p - q)+), because f q = min(q, p/l) and p/l >= p. Google's notebook
(google-research/speculative_cascades) uses the same residual. The next token has the law

    min(q, p/l) + (1 - sum min(q, p/l)) norm((p - q)+).
"""

from __future__ import annotations

from math import log

from sdbench.acceptance.base import Law, Memoryless, residual, row, taken, tokenwise
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, Draft, wide
from sdbench.sampling import Scored
from sdbench.validate import number


class Lenience(Memoryless):
    """Apply the exact test with lenience.

    Reads the warped p and q. Greedy form, on the un-warped p: keep x if p(x) >= l max p, else take p's most likely token.

    lenience: l in (0, 1]. 1 is the exact rule, and a smaller l keeps more. The notebook's knob of this name is 1 - l. The paper
    names no default.
    """

    def __init__(self, lenience: float = 0.5) -> None:
        self.lenience = number("lenience.lenience", lenience, 0, 1, "(]")
        self.lossless_over = OVER_DRAWN if lenience == 1 else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            logits = p.logits[:, : draft.tokens.shape[1]].to(wide(p.logits))
            return tokenwise(draft, p, taken(logits, draft.tokens) >= logits.amax(-1) + log(self.lenience))
        q = draft.scored(p)
        passes = taken(p.probs, draft.tokens) / (self.lenience * taken(q.probs, draft.tokens))
        return tokenwise(
            draft, p, passes.nan_to_num(nan=0.0).clamp(max=1), lambda n: residual(row(p, n).probs, row(q, n).probs)
        )
