"""Cast numbers to MXFP4 and back (OCP Microscaling Formats, version 1.0): what a stored MXFP4 weight would be worth.

A block of 32 numbers shares a scale in E8M0, a power of two from 2^-127 to 2^127. Each number is an E2M1 element: a sign, two bits
of exponent and one of mantissa. The scale is the power of two at or below the largest magnitude of the block, over that of the
largest element (4 = 2^2):

    X = 2^(floor(log2(amax)) - 2),      element = round(x / X),      value = element X.

Elements round to nearest, ties to even, and saturate at 6. A block of zeros stays zero. An MXFP4 weight takes 4 + 8 / 32 bits.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 32
BITS = 4 + 8 / BLOCK  # of a weight, with its share of the scale
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # the magnitudes, by their code
_LARGEST = 2  # the exponent of the largest element
_BIAS = 127  # of E8M0


def to_e2m1(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Round to the values of E2M1, ties to even, and saturate."""
    size = values.abs().clamp(max=E2M1[-1])
    # Between 2 and 4 the elements are 1 apart, above 4 they are 2 apart, and below 2, with the subnormal 0.5, they are 0.5 apart.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    # An even multiple of the step has an even mantissa, and `round` takes ties to even multiples.
    return torch.copysign((size / step).round() * step, values)


def scales(blocks: Float[Tensor, "*shape 32"]) -> Float[Tensor, "*shape 1"]:
    """Return the shared scale of each block. blocks: in float32."""
    exponent = torch.frexp(blocks.abs().amax(-1, keepdim=True)).exponent - 1  # floor(log2)
    code = (exponent - _LARGEST + _BIAS).clamp(0, 2 * _BIAS)
    return code.to(torch.uint8).view(torch.float8_e8m0fnu).float()


def mxfp4(weight: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
    """Return the values that a weight has once it is stored as MXFP4, in its own dtype.

    dim: the dimension along which the blocks lie. It is the one that a product sums over. The last block may be shorter.
    """
    turned = weight.movedim(dim, -1).float()
    blocks = pad(turned, (0, -turned.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    scale = scales(blocks)
    values = (to_e2m1(blocks / scale) * scale).flatten(-2)[..., : turned.shape[-1]]
    return values.movedim(-1, dim).to(weight.dtype).contiguous()
