"""Choose the type of matrix products in training: bfloat16 if the processor computes large products faster in it, else float32.

Matrix units (AMX, and the bfloat16 instructions of ARM) do. A processor without bfloat16 instructions emulates bfloat16, far
slower than float32. AVX-512's own bfloat16 instructions help one step of a decode, which reads fewer bytes. They do not help large
products: on a Xeon without AMX, a product of 2,048 rows took twice the time of float32.
"""

from functools import cache

import torch


@cache
def product_dtype() -> torch.dtype:
    """Return the type of matrix products on this processor."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    fast = any(capabilities.get(name) for name in ("amx_bf16", "bf16"))
    return torch.bfloat16 if fast else torch.float32
