"""Choose the type of matrix products in training: bfloat16 if the processor has instructions for it, else float32.

A processor without such instructions emulates bfloat16, which is far slower than float32.
"""

import torch


def product_dtype() -> torch.dtype:
    """Return the type of matrix products on this processor."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    native = any(held and "bf16" in name for name, held in capabilities.items())
    return torch.bfloat16 if native else torch.float32
