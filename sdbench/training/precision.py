"""Choose how a training computes: the type of its matrix products, and what becomes of denormal numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sdbench.device import fast_bfloat16_products


def product_dtype() -> torch.dtype:
    """Return the type of matrix products: bfloat16 if the processor computes large products faster in it, else float32."""
    return torch.bfloat16 if fast_bfloat16_products() else torch.float32


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Count denormal numbers as 0 inside: rarely seen tokens leave denormal moments, on which a CPU is slow."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
