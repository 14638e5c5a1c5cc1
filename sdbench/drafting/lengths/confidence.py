"""Stop drafting where the draft is unsure (transformers' assisted generation)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdbench.errors import InputError
from sdbench.sampling import Scored


class StopWhenUnsure:
    """Stop behind the first token to which the draft gave a probability below `threshold`. That token is kept.

    This is transformers' assisted generation (`assistant_confidence_threshold`, 0.4 by default) without its online tuning. The
    probability is the un-warped one.
    """

    def __init__(self, threshold: float = 0.4) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(f"policy.threshold is {threshold}; a probability must lie in [0, 1].")
        self.threshold = threshold

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        return torch.gather(scored.plain, -1, token[:, None])[:, 0] >= self.threshold
