"""How the target scores a draft: which tokens it reads behind the decided ones, and which logits the rule then sees.

The loop of a decoder asks the scoring for one `StepOutput` over the draft. A scoring may let the target read more tokens than the
draft, in the slots behind it. The verdict counts drafted tokens only, so `keep` forgets all others with the rejected ones.
"""

from __future__ import annotations

from typing import Protocol

from sdbench.acceptance.draft import Draft
from sdbench.lm.model import LanguageModel
from sdbench.lm.output import StepOutput
from sdbench.lm.state import DecodeState


class Scoring(Protocol):
    """Score a draft with the target.

    lossless: the scores are the target's own, so a lossless rule stays lossless. trees: token trees can be scored.
    """

    @property
    def lossless(self) -> bool: ...

    @property
    def trees(self) -> bool: ...

    def nodes(self, drafted: int) -> int:
        """Return the most tokens that the target reads behind the decided ones, for so many drafted tokens."""
        ...

    def score(self, target: LanguageModel, state: DecodeState, draft: Draft) -> StepOutput:
        """Return the logits [B, K+1, V] behind the last decided token and behind each drafted one.

        The drafted tokens stand in `state`, behind the decided ones. More tokens may be written behind them.
        """
        ...


class Plain:
    """Score a draft by one reading of it. This is speculative decoding's own verification."""

    lossless = trees = True

    def nodes(self, drafted: int) -> int:
        return drafted

    def score(self, target: LanguageModel, state: DecodeState, draft: Draft) -> StepOutput:
        return target.score(state, draft.tokens.shape[1], draft.topology)
