"""Choose the type of matrix products in training: bfloat16 if the processor has instructions for it, else float32.

A processor without such instructions emulates bfloat16, which is far slower than float32.
"""

import torch

from sdbench.device import native_bfloat16


def product_dtype() -> torch.dtype:
    """Return the type of matrix products on this processor."""
    return torch.bfloat16 if native_bfloat16() else torch.float32
