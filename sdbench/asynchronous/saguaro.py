"""Saguaro sampling (SSD, 2603.03251, definition 14): draft fewer of the tokens that the cache holds as outcomes.

    sigma(z)_t ~ C exp(z_t)   for the F most likely t,   exp(z_t) for the others,   0 <= C <= 1.

C = 1 is ordinary sampling. A smaller C takes mass from the tokens that the cache holds. The residual max(p - q, 0) then lies on
these tokens. So a rejection hits the cache more often (theorem 15), and fewer tokens are accepted. Drafting, test and residual use
the same modified q, so the output keeps the target's law for every C. At temperature 0 nothing changes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.errors import InputError
from sdbench.sampling import Sampling


class Saguaro:
    """Change what a draft is drawn from.

    c: C. top: F. None: one more than the fan-out at the position, because the drafted token itself is never a cached outcome, as in
    the authors' code (github tanishqkumar/ssd).
    """

    def __init__(self, c: float = 1.0, top: int | None = None) -> None:
        validate.number("saguaro.c", c)
        if not 0 <= c <= 1:
            raise InputError(f"saguaro.c is {c}; it must lie in [0, 1].")
        if top is not None:
            validate.whole("saguaro.top", top, 1)
        self.c, self.top = c, top

    @property
    def plain(self) -> bool:
        """Say whether this is ordinary sampling, at any temperature."""
        return self.c == 1

    def modify(self, logits: Float[Tensor, "*batch V"], fan_out: int, sampling: Sampling) -> Float[Tensor, "*batch V"]:
        """Return logits whose distribution at the sampling's temperature is sigma. fan_out: at the position."""
        if self.plain or sampling.greedy:
            return logits
        top = min(self.top or fan_out + 1, logits.shape[-1] - 1)
        shift = sampling.temperature * math.log(self.c) if self.c else -math.inf
        highest = logits.topk(top, dim=-1).indices
        return logits.scatter_add(-1, highest, torch.full_like(highest, shift, dtype=logits.dtype))
