"""How far to draft: length policies.

A policy looks at the draft's own distribution and at the past. It may look at a token that it then keeps, never at one that it
drops: dropping a token because of its value changes the law of what is verified (docs/references/families.md, FA B.1).
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Bool, Int
from torch import Tensor

from sdbench.sampling import Scored


class LengthPolicy(Protocol):
    """Says after each drafted token in which rows to go on."""

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> Bool[Tensor, " B"] | None:
        """scored: [B, V] what the token, which is kept, was drawn from. None: every row goes on."""
        ...
