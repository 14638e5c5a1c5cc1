"""Choose which tokens of a batch a loss counts.

every       all of them
loss_gap    those on which the draft is furthest behind a reference draft (AdaSPEC, 2510.19779)
rejected    those that the target would reject with some probability
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def loss_gap(own: Float[Tensor, " N"], reference: Float[Tensor, " N"], share: float) -> Bool[Tensor, " N"]:
    """Return the `share` of tokens with the largest loss above that of the reference, within the batch."""
    gap = own.detach() - reference.detach()
    return gap >= torch.quantile(gap, 1 - share)


def rejected(alpha: Float[Tensor, " N"], least: float) -> Bool[Tensor, " N"]:
    """Return the tokens that the target rejects with a probability of at least `least`."""
    return (1 - alpha.detach()) >= least
