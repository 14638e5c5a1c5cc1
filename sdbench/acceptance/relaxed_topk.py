"""Relaxed acceptance of TensorRT-LLM (multi-token prediction of DeepSeek-R1: `mtp.py`, `mtpKernels.cu`).

Keep x if it is among the verifier's `relaxed_topk` most likely tokens and p(x) >= max p - relaxed_delta, an absolute gap between
probabilities. The rule does not read q.
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, taken, tokenwise
from sdbench.acceptance.draft import Draft
from sdbench.sampling import Scored
from sdbench.validate import number, whole


class RelaxedTopK(Memoryless):
    """Apply TensorRT-LLM's relaxed top-k test.

    Reads the un-warped p. Tokens that tie with the k-th are included. A replacement is drawn from the warped p. The source has only
    the greedy form, which replaces by the most likely token. It applies the test only between the tokens that begin and end the
    thinking; here the test applies to all tokens.

    relaxed_topk, relaxed_delta: 10 and 0.01, the example in the library's documentation. Its defaults, 1 and 0.0, are the strict
    greedy rule.
    """

    def __init__(self, relaxed_topk: int = 10, relaxed_delta: float = 0.01) -> None:
        self.relaxed_topk = whole("relaxed_topk.relaxed_topk", relaxed_topk, 1)
        self.relaxed_delta = number("relaxed_topk.relaxed_delta", relaxed_delta, 0, 1)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        probs = p[:, : draft.tokens.shape[1]].plain
        its = taken(probs, draft.tokens)
        likely = (probs > its[..., None]).sum(-1) < self.relaxed_topk
        return tokenwise(draft, p, likely & (its >= probs.amax(-1) - self.relaxed_delta))
