"""Parts of the modules of heads: decoder layers as transformers builds them, and attention with fewer queries than new keys.

Shapes: B rows, Q queries, T new keys, E all keys, W the width, D the width of an attention head.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

_NAMES = {"llama": "Llama", "qwen3": "Qwen3"}
_SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "rope_parameters", "max_position_embeddings", "hidden_act",
)  # fmt: skip


def part(layer: Any, name: str) -> Any:
    """Return a class of transformers' code for the kind of `layer`, such as RMSNorm."""
    module = import_module(f"transformers.models.{layer.model_type}.modeling_{layer.model_type}")
    return getattr(module, _NAMES[layer.model_type] + name)


def layer_like(target: Any, layers: int = 1) -> Any:
    """Return the config of `layers` decoder layers with the sizes of a target: of the kind qwen3 if it is one, else llama."""
    import transformers as t

    text = target.get_text_config()
    make = t.Qwen3Config if text.model_type.startswith("qwen3") else t.LlamaConfig
    shared = {name: getattr(text, name) for name in _SHARED if getattr(text, name, None) is not None}
    config = make(**shared, num_hidden_layers=layers, bos_token_id=None, eos_token_id=None)
    config._attn_implementation = "sdpa"
    return config


class Layer(nn.Module):
    """A decoder layer. Its tensors have the names that transformers gives them."""

    def __init__(self, layer: Any, number: int) -> None:
        super().__init__()
        self.self_attn = part(layer, "Attention")(layer, number)
        self.mlp = part(layer, "MLP")(layer)
        norm, width, eps = part(layer, "RMSNorm"), layer.hidden_size, layer.rms_norm_eps
        self.input_layernorm, self.post_attention_layernorm = norm(width, eps=eps), norm(width, eps=eps)

    def forward(
        self,
        states: Float[Tensor, "B Q W"],
        rotation: tuple[Tensor, Tensor],
        mask: Bool[Tensor, "#B Q E"] | None,
        cache: Any = None,
        injected: Float[Tensor, "B C W"] | None = None,
    ) -> Float[Tensor, "B Q W"]:
        """Return the output of the layer. injected: C more inputs of keys and values, before those of the queries."""
        normed = self.input_layernorm(states)
        keys = normed if injected is None else torch.cat([injected, normed], 1)
        states = states + attend(self.self_attn, normed, keys, rotation, mask, cache)
        return states + self.mlp(self.post_attention_layernorm(states))


def attend(
    attention: Any,
    queries: Float[Tensor, "B Q W"],
    keys: Float[Tensor, "B T W"],
    rotation: tuple[Tensor, Tensor] | None,
    mask: Bool[Tensor, "#B Q E"] | None,
    cache: Any = None,
) -> Float[Tensor, "B Q W"]:
    """Attend with the weights of an attention module of transformers.

    queries, keys: inputs; the queries stand at the last Q of the T places. rotation: cosines and sines of these places; None: no
    positions. mask: which keys each query sees; None: all. cache: holds the keys before, and takes the new ones.
    """
    from transformers.models.llama.modeling_llama import repeat_kv

    def split(given: Tensor, name: str) -> Tensor:
        made = getattr(attention, f"{name}_proj")(given).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{name}_norm", None)
        return (made if norm is None else norm(made)).transpose(1, 2)

    query, key, value = split(queries, "q"), split(keys, "k"), split(keys, "v")
    if rotation is not None:
        count = queries.shape[1]
        query, key = _turned(query, *(side[:, -count:] for side in rotation)), _turned(key, *rotation)
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    groups = attention.num_key_value_groups
    made = scaled_dot_product_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        None if mask is None else mask[:, None],
        scale=attention.scaling,
    )
    return attention.o_proj(made.transpose(1, 2).flatten(2))


def _turned(
    states: Float[Tensor, "B H T D"], cos: Float[Tensor, "*B T D"], sin: Float[Tensor, "*B T D"]
) -> Float[Tensor, "B H T D"]:
    from transformers.models.llama.modeling_llama import rotate_half

    return states * cos.unsqueeze(1) + rotate_half(states) * sin.unsqueeze(1)


def blocks_mask(places: int, block: int, causal: bool, device: torch.device) -> Bool[Tensor, "1 T T"]:
    """Say what queries see in training: first one for each of P places, then a block of Q behind each place (T = P + P Q).

    A place sees the places up to its own. A query of a block sees these too, and its own block: up to itself if it is causal.
    """
    numbers = torch.arange(places, device=device)
    owner = torch.cat([numbers, numbers.repeat_interleave(block)])
    offset = torch.cat([numbers.new_zeros(places), torch.arange(1, block + 1, device=device).repeat(places)])
    context = (offset == 0) & (owner <= owner[:, None])
    own = (owner == owner[:, None]) & (offset > 0) & (offset[:, None] > 0)
    if causal:
        own &= offset <= offset[:, None]
    return (context | own)[None]


def blocks_positions(places: int, block: int, device: torch.device) -> Int[Tensor, "1 T"]:
    """Return the positions of the queries of `blocks_mask`: those of the places, then of the blocks behind each."""
    numbers = torch.arange(places, device=device)
    behind = numbers[:, None] + torch.arange(1, block + 1, device=device)
    return torch.cat([numbers, behind.flatten()])[None]
