"""Stop drafting where the draft is unsure (transformers' assisted generation)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.drafting.lengths.base import LengthPolicy
from sdbench.sampling import Scored


class StopWhenUnsure(LengthPolicy):
    """Stop behind the first token to which the draft gave a probability below `threshold`. That token is kept.

    This is transformers' assisted generation (`assistant_confidence_threshold`, 0.4 by default) without its online tuning. The
    probability is the un-warped one.
    """

    def __init__(self, threshold: float = 0.4) -> None:
        self.threshold = validate.number("lengths.threshold", threshold, 0, 1)

    def go_on(
        self, scored: Scored, token: Int[Tensor, " B"], depth: int | np.ndarray, memory: list[Any]
    ) -> Bool[Tensor, " B"]:
        return confidence(scored, token) >= self.threshold


def confidence(scored: Scored, token: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the un-warped probability of each row's token."""
    return torch.gather(scored.plain, -1, token[:, None])[:, 0]
