"""The own forward of a `transformers` model, called over the KV cache with ready masks.

The models of a family may have embeddings of different widths. Every model takes and returns the token ids of the target: V of
them. A model that has fewer rows never proposes an id that it lacks: its logit is -inf. It reads its last row in place of such an
id. A model that has more rows gives no logits for its surplus ones.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.lm.kv_cache import KVCache


def forward(
    model: Any,
    tokens: Int[Tensor, "B T"],
    positions: Int[Tensor, "B T"],
    cache: KVCache,
    kinds: tuple[str, ...],
    masks: list[Float[Tensor, "B 1 T E"]],
    num_logits: int,
    vocab: int,
    embedded: int,
) -> Float[Tensor, "B R V"]:
    """Return the logits of the last `num_logits` tokens.

    masks: one for each kind of attention layers. vocab: V, the number of the target's token ids. embedded: the number of ids that
    the model itself has rows for.
    """
    logits = model(
        input_ids=tokens if embedded >= vocab else tokens.clamp(max=embedded - 1),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        attention_mask=masks[0] if len(masks) == 1 else dict(zip(kinds, masks, strict=True)),
        logits_to_keep=num_logits,
    ).logits
    return widened(logits, vocab)


def widened(logits: Float[Tensor, "*batch W"], vocab: int) -> Float[Tensor, "*batch V"]:
    """Return logits for exactly `vocab` token ids: surplus ones are cut off, and lacking ones are -inf."""
    lacking = vocab - logits.shape[-1]
    return logits[..., :vocab] if lacking <= 0 else pad(logits, (0, lacking), value=-torch.inf)
