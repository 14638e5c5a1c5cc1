"""Fuzzy speculative decoding (Holsman, Huang, Dhingra, 2502.20704, ACL 2025 Findings; github maxholsman/fsd).

The rule keeps any drafted token where the verifier and the proposer nearly agree: Div(p, q) <= threshold. Two forms are in use:

    threshold  the code's form (`_speculative_backoff_sampling`): the divergence alone decides. A sample from the verifier's p
               replaces the first token that fails (`replacement: verifier`). Third-party restatements of PyramidSD
               (2510.12966) draw it from norm((p - q)+) (`replacement: residual`).
    fallback   2607.08690's restatement ("r_fuzzy"): where the divergence is too large, the exact rule decides, with its test
               min(1, p(x)/q(x)) and its residual norm((p - q)+).

Over tokens drawn from q, the next token has the law q where Div <= threshold, and p elsewhere. In the threshold form with the
residual it has the law norm((p - q)+) elsewhere.
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, ratio, residual, row, tokenwise
from sdbench.acceptance.divergence import Divergence
from sdbench.acceptance.draft import NEVER, OVER_DRAWN, Draft
from sdbench.sampling import Scored, most_likely
from sdbench.validate import choice, number


class Fuzzy(Memoryless):
    """Keep a token where verifier and proposer nearly agree.

    The divergence reads the un-warped distributions (the warped ones if `warped`). The exact test, the residual and the
    replacement from p read the warped ones. Greedy form: the same test, with the verifier's most likely token as the replacement.
    The fallback form also keeps a token if it is that token.

    threshold: in the divergence's unit; 0.4 with js_fsd_code is the code's README example. form: threshold or fallback.
    replacement: verifier or residual (threshold form only). divergence, top_k, warped: see `Divergence`.
    At threshold 0 only equal distributions pass. In floating point this is certain for total variation alone. So the rule calls
    itself lossless only with that divergence.
    """

    def __init__(
        self,
        threshold: float = 0.4,
        form: str = "threshold",
        replacement: str = "verifier",
        divergence: str = "js_fsd_code",
        top_k: int | None = None,
        warped: bool = False,
    ) -> None:
        self.threshold = number("fuzzy.threshold", threshold, 0)
        self.form = choice("fuzzy.form", form, ("threshold", "fallback"))
        self.replacement = choice("fuzzy.replacement", replacement, ("verifier", "residual"))
        self.divergence = Divergence(divergence, top_k, warped)
        equal = threshold == 0 and divergence == "tv" and top_k is None
        self.lossless_over = OVER_DRAWN if equal and (form == "fallback" or replacement == "verifier") else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        passes = self.divergence(draft, p) <= self.threshold
        fallback = self.form == "fallback"
        if p.sampling.greedy:
            if fallback:
                passes |= draft.tokens == most_likely(p.logits[:, : draft.tokens.shape[1]])
            return tokenwise(draft, p, passes)  # at temperature 0 the residual and p are one-hot at the same token
        q = draft.scored(p)
        if fallback:
            passes = ratio(p.probs, q.probs, draft).masked_fill(passes, 1.0)
        elif self.replacement == "verifier":
            return tokenwise(draft, p, passes)
        return tokenwise(draft, p, passes, lambda n: residual(row(p, n).probs, row(q, n).probs))
