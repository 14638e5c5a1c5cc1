"""Decide when two logits tie: rounding alone may have put one of them first. The page `docs/ties.md` gives the reasons.

A step is the distance of two neighbouring numbers of a precision. It grows with the number: in bfloat16 it is 1/64 at 2 and 1/8 at
16. Two forwards of other shapes round differently, so the difference of two logits may change by some steps.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# How many steps of the logit rounding may change a difference of two logits by. The page has the measurements. In float32, sums are
# as coarse as the numbers themselves, so an error is many of the (far smaller) steps.
STEPS = {torch.float16: 8, torch.bfloat16: 8, torch.float32: 64, torch.float64: 64}


def tolerance(
    logits: Float[Tensor, "*batch V"], chosen: Float[Tensor, "*batch"], dtype: torch.dtype
) -> Float[Tensor, "*batch"]:
    """Return the difference to the best logit below which another logit ties with it.

    chosen: the other logit. dtype: the precision of the model's hidden states and logits, the coarser one. The step is that at the
    largest of three numbers: the best logit, the other logit, and the best one's distance to the median. The last one matters if
    the best logit is near 0 by chance: its error comes from the hidden state, so a common offset of all logits does not change it.
    """
    best = logits.amax(-1)
    middle = logits.masked_fill(~logits.isfinite(), torch.nan).nanmedian(-1).values
    largest = torch.stack([best.abs(), chosen.abs(), best - middle]).amax(0)
    step = torch.finfo(dtype).eps * torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)
    return STEPS[dtype] * step


def tied(
    logits: Float[Tensor, "*batch V"], tokens: Int[Tensor, "*batch"], dtype: torch.dtype, epsilon: float | None = None
) -> Bool[Tensor, "*batch"]:
    """Say whether each token has the best logit, up to rounding.

    epsilon: an absolute tolerance in place of the one that follows from the precision. A logit that is not finite never ties.
    """
    best, chosen = logits.amax(-1), logits.gather(-1, tokens[..., None])[..., 0]
    bound = tolerance(logits, chosen, dtype) if epsilon is None else epsilon
    return (tokens == logits.argmax(-1)) & best.isfinite() | (best - chosen < bound)


def coarser(*dtypes: torch.dtype) -> torch.dtype:
    """Return the precision with the largest step."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
