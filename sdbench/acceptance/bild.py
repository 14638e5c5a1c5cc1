"""The roll-back of BiLD, Big Little Decoder (Kim et al. 2302.07863, NeurIPS 2023; kssteven418/BigLittleDecoder).

Keep x unless -ln p(x) > rollback_threshold. The verifier's most likely token replaces the first token that fails, unless it is
that token already. The rule does not read q. (The other half of BiLD decides when the small model hands over. That is a length
policy.)
"""

from __future__ import annotations

from sdbench.acceptance.base import Law, Memoryless, tokenwise
from sdbench.acceptance.draft import Draft
from sdbench.acceptance.surprise import surprise
from sdbench.sampling import Scored, most_likely
from sdbench.validate import number


class BiLD(Memoryless):
    """Roll back at a surprise, as BiLD does.

    Reads the un-warped p. The source has only the greedy form, which replaces by p's most likely token. When sampling, the
    replacement is drawn from the warped p.

    rollback_threshold: 5.0 nats, the code's default (its README: 2 to 5).
    """

    def __init__(self, rollback_threshold: float = 5.0) -> None:
        self.rollback_threshold = number("bild.rollback_threshold", rollback_threshold, 0)

    def law(self, draft: Draft, p: Scored, memory=None) -> Law:
        best = most_likely(p.logits[:, : draft.tokens.shape[1]])
        calm = surprise(draft, p, warped=False) <= self.rollback_threshold
        return tokenwise(draft, p, calm | (draft.tokens == best))
