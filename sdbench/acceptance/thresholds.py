"""The two thresholds of SGLang (kernel `TreeSpeculativeSamplingTargetOnly`), for a chain.

Keep x with probability min(1, p(x) / threshold_acc), and always if p(x) >= threshold_single. A sample from p without x,
renormalised, replaces the first token that fails. The rule does not read q and treats it as one-hot. With both thresholds at 1, the
library's defaults, this is the match rule, which is lossless over any draft.
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, at, keep_best, row, taken, tokenwise
from sdbench.acceptance.draft import NEVER, OVER_ANY, Draft
from sdbench.acceptance.match import without
from sdbench.sampling import Scored
from sdbench.validate import number


class Thresholds(Memoryless):
    """Apply SGLang's target-only test with two thresholds.

    Reads the warped p. Greedy form: keep the tokens that are the verifier's most likely ones.

    threshold_single, threshold_acc: `speculative_accept_threshold_single` and `..._acc`, both 1.0. Smaller values keep more.
    threshold_acc is at least 1e-9, as in the library.
    """

    def __init__(self, threshold_single: float = 1.0, threshold_acc: float = 1.0) -> None:
        self.threshold_single = number("thresholds.threshold_single", threshold_single, 0, 1)
        self.threshold_acc = max(number("thresholds.threshold_acc", threshold_acc, 0, 1), 1e-9)
        self.lossless_over = OVER_ANY if threshold_single == threshold_acc == 1 else NEVER

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        if p.sampling.greedy:
            return keep_best(draft, p)
        its = taken(p.probs, draft.tokens)
        passes = (its / self.threshold_acc).clamp(max=1).masked_fill(its >= self.threshold_single, 1.0)
        return tokenwise(draft, p, passes, lambda n: without(row(p, n).probs, at(draft.tokens, n)))
