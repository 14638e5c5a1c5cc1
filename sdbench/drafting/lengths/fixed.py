"""A fixed length: draft as many tokens as the decoder asks for."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from sdbench.sampling import Scored


class Fixed:
    """Go on until the asked number of tokens is drafted."""

    def go_on(self, scored: Scored, token: Int[Tensor, " B"]) -> None:
        return None
