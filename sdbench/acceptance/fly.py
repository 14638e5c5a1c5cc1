"""FLy, training-free loosely speculative decoding (2511.22972; github AMD-AGI/FLy, `fly/models/FLy.py`).

A single mismatch is forgiven if the target agrees with what follows it. Token i matches if the target's own draw is the same token.
A token that does not match is kept if three conditions hold:

    the next `window` - 1 drafted tokens all match;
    it is not among the last `window` tokens of the draft;
    the target is unsure there: - sum of p ln p over its three most likely tokens >= `entropy`.

At a positive temperature the code draws twice from p, and either draw may match: a match has probability 1 - (1 - p(x))^2. The
first draw replaces the first token that is not kept, so the replacement is p without x. The code drafts greedily; this rule takes
any draft.

Forgiveness looks ahead, so tests of neighbours are not independent, and the rule states its own law. Let m_i be the probability of
a match, f_i whether token i may be forgiven, and W_i the product of the next window - 1 values of m. Then

    reach[i+1] += reach[i] m_i,    reach[i+window] += reach[i] (1 - m_i) f_i W_i,    accepted[i] = reach[i] (1 - m_i) (1 - f_i W_i).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdbench.acceptance.base import Law, Memoryless, at, one_hot, row, taken, tokenwise
from sdbench.acceptance.draft import NEVER, Draft, wide
from sdbench.acceptance.match import without
from sdbench.sampling import Scored
from sdbench.validate import number, whole

TOP = 3  # tokens in the entropy


class FLy(Memoryless):
    """Forgive a single mismatch that the target does not correct later.

    The entropy reads the un-warped p, the draws read the warped one. Greedy form: the target's draw is its most likely token.

    window: 6. entropy: 0.3 nats; 0 forgives whatever the entropy. draws: 2, of the target for each token at a positive temperature.
    These are the code's values. A draft of `window` tokens or fewer is never forgiven, and the code drafts 15.
    """

    lossless_over = NEVER

    def __init__(self, window: int = 6, entropy: float = 0.3, draws: int = 2) -> None:
        self.window = whole("fly.window", window, 1)
        self.entropy = number("fly.entropy", entropy, 0)
        self.draws = whole("fly.draws", draws, 1)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        K = draft.tokens.shape[1]
        inside = torch.arange(K, device=draft.tokens.device) < draft.length[:, None]
        matches = torch.where(inside, self._matches(draft, p), 0)
        accepted = self._accepted(matches, self._forgivable(draft, p[:, :K]))
        if p.sampling.greedy:
            best = p.best
            return Law(accepted, lambda n: one_hot(at(best, n), p.logits))
        replaced = tokenwise(draft, p, matches, lambda n: without(row(p, n).probs, at(draft.tokens, n)))
        return Law(accepted, replaced.next_token)

    def _matches(self, draft: Draft, p: Scored) -> Float[Tensor, "B K"]:
        """Return m."""
        if p.sampling.greedy:
            return (draft.tokens == p.best[:, :-1]).to(wide(p.logits))
        return 1 - (1 - taken(p.probs, draft.tokens)) ** self.draws

    def _forgivable(self, draft: Draft, p: Scored) -> Bool[Tensor, "B K"]:
        """Return f."""
        few = p.plain.topk(min(TOP, p.logits.shape[-1])).values
        unsure = torch.special.entr(few).sum(-1) >= self.entropy
        early = torch.arange(few.shape[1], device=few.device) < draft.length[:, None] - self.window
        return unsure & early

    def _accepted(self, matches: Float[Tensor, "B K"], forgivable: Bool[Tensor, "B K"]) -> Float[Tensor, "B K1"]:
        """Return the probability of each number of kept tokens."""
        K, window = matches.shape[1], self.window
        reach = [matches.new_ones(len(matches)), *(matches.new_zeros(len(matches)) for _ in range(K))]
        accepted = []
        for i, match in enumerate(matches.unbind(1)):
            misses = reach[i] * (1 - match)
            if i + window < K:
                forgiven = misses * forgivable[:, i] * matches[:, i + 1 : i + window].prod(-1)
                reach[i + window] = reach[i + window] + forgiven
                misses = misses - forgiven
            reach[i + 1] = reach[i + 1] + reach[i] * match
            accepted.append(misses)
        return torch.stack([*accepted, reach[K]], 1)
