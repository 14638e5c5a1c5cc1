"""Call a model in training: its hidden states, and the type of its matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.training.precision import product_dtype


def hidden_behind(model: Any, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Return the hidden states behind the last norm. Rows are padded on the right, so the causal mask already hides the padding."""
    return body_of(model)(input_ids=tokens.to(model.device), use_cache=False).last_hidden_state


def body_of(model: Any) -> Any:
    """Return a causal language model without its head."""
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model


def product_mode(model: Any) -> AbstractContextManager[Any]:
    """Compute matrix products in bfloat16 where the processor is faster in it, or where the model is in bfloat16.

    The trained weights of a draft are in float32, and what it borrows has the type of the target. A model on a GPU keeps its types.
    """
    on = model.device.type == "cpu" and torch.bfloat16 in (product_dtype(), model.dtype)
    return torch.autocast("cpu", torch.bfloat16, enabled=on)
