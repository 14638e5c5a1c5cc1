"""The fixed length: draft as many tokens as the decoder asks for."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from sdbench.sampling import Scored


class Fixed:
    """Draft as many tokens as were asked for."""

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> None:
        return None
