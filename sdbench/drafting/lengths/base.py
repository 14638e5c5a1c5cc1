"""The interface of a length policy, which says how far to draft.

A policy reads the draft's own distributions. It may read the value of a token that it keeps, never of one that it drops. Dropping a
token because of its value changes the law of the verified tokens (docs/references/families.md, FA B.1).
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Bool, Int
from torch import Tensor

from sdbench.sampling import Scored


class LengthPolicy(Protocol):
    """Say after each drafted token which rows go on."""

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> Bool[Tensor, " B"] | None:
        """Return the rows that go on; None for all. scored: [B, V], what the last drafted token was drawn from."""
        ...
