"""The own forward of a `transformers` model, called over the KV cache with ready masks, in the target's token ids."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from sdbench.lm.kv_cache import KVCache
from sdbench.models.token_map import SameIds


def forward(
    model: Any,
    tokens: Int[Tensor, "B T"],
    positions: Int[Tensor, "B T"],
    cache: KVCache,
    kinds: tuple[str, ...],
    masks: list[Float[Tensor, "B 1 T E"]],
    num_logits: int,
    ids: SameIds,
) -> Float[Tensor, "B R V"]:
    """Return the logits of the last `num_logits` tokens.

    masks: one for each kind of attention layers. ids: translates between the target's V token ids and the model's own.
    """
    logits = model(
        input_ids=ids.read(tokens),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        attention_mask=masks[0] if len(masks) == 1 else dict(zip(kinds, masks, strict=True)),
        logits_to_keep=num_logits,
    ).logits
    return ids.widen(logits)
