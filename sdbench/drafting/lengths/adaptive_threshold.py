"""The adaptive threshold of Draft&Verify (2309.08168; github dilab-zju/self-speculative-decoding; FA D.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdbench import validate
from sdbench.drafting.lengths.base import LengthPolicy
from sdbench.drafting.lengths.confidence import confidence
from sdbench.sampling import Scored


class _Memory(NamedTuple):
    """threshold: the present one. kept: the running share of kept tokens."""

    threshold: float
    kept: float


class AdaptiveThreshold(LengthPolicy):
    """Stop behind the first token whose un-warped probability is below a threshold. The threshold follows the acceptance.

    After each verification, with the share s of kept tokens, as in the authors' code:

        kept = smoothing kept + (1 - smoothing) s
        wanted = threshold + step if kept < aim, else threshold - step (unchanged if the draft had K tokens)
        threshold = momentum threshold + (1 - momentum) wanted

    threshold: the first one. The authors' code has 0.8 for greedy decoding and 0.5 for sampling, and drafts at most 8 tokens.
    """

    def __init__(
        self,
        threshold: float = 0.8,
        aim: float = 0.9,
        step: float = 0.01,
        smoothing: float = 0.5,
        momentum: float = 0.9,
    ) -> None:
        self.threshold = validate.number("lengths.threshold", threshold, 0, 1)
        self.aim = validate.number("lengths.aim", aim, 0, 1)
        self.step = validate.number("lengths.step", step, 0)
        self.smoothing = validate.number("lengths.smoothing", smoothing, 0, 1)
        self.momentum = validate.number("lengths.momentum", momentum, 0, 1)

    def start(self) -> _Memory:
        return _Memory(self.threshold, 0.0)

    def go_on(
        self, scored: Scored, token: Int[Tensor, " B"], depth: int | np.ndarray, memory: list[_Memory]
    ) -> Bool[Tensor, " B"]:
        own = confidence(scored, token)
        return own >= torch.tensor([each.threshold for each in memory], dtype=own.dtype, device=own.device)

    def learn(self, memory: _Memory, proposed: int, accepted: int, most: int) -> _Memory:
        kept = self.smoothing * memory.kept + (1 - self.smoothing) * accepted / proposed
        wanted = memory.threshold
        if kept < self.aim:
            wanted += self.step
        elif proposed < most:
            wanted -= self.step
        return _Memory(self.momentum * memory.threshold + (1 - self.momentum) * wanted, kept)
