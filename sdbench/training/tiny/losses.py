"""Compute the training loss."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaForCausalLM

from sdbench.training.precision import product_dtype
from sdbench.training.tiny.data import Batch


def completion_loss(model: LlamaForCausalLM, batch: Batch) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the completion tokens, in nats.

    The head computes logits for these tokens only. Rows are padded on the right, so the causal mask already hides the padding.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=product_dtype() == torch.bfloat16):
        hidden = model.model(input_ids=batch.tokens[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[batch.counted[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), batch.tokens[:, 1:][batch.counted[:, 1:]])
