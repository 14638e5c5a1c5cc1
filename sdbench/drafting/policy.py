"""How far to draft: length policies.

A policy looks at the draft's own distribution and at the past. It may look at a token that it then keeps, never at one that it
drops: dropping a token because of its value changes the law of what is verified (families.md B.1 measures the bias).
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdbench.errors import InputError
from sdbench.sampling import Scored


class LengthPolicy(Protocol):
    """Says after each drafted token in which rows to go on."""

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> Bool[Tensor, " B"] | None:
        """scored: [B, V] what the token, which is kept, was drawn from. None: every row goes on."""
        ...


class Fixed:
    """Draft as many tokens as were asked for."""

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> None:
        return None


class StopWhenUnsure:
    """Stop behind the first token to which the draft itself gave less than `threshold`; that token is kept.

    As in transformers' assisted generation (`assistant_confidence_threshold`, 0.4 by default there), without its online
    tuning. The probability is the un-warped one.
    """

    def __init__(self, threshold: float = 0.4) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(f"policy.threshold is {threshold}; a probability must lie in [0, 1].")
        self.threshold = threshold

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        return torch.gather(scored.plain, -1, token[:, None])[:, 0] >= self.threshold
