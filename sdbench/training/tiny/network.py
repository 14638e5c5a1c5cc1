"""Build the network of one model, and add layers that do not change its function at first."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sdbench.training.precision import product_dtype
from sdbench.training.tiny.recipe import ModelRecipe


def build(
    recipe: ModelRecipe, layers: int, vocabulary: int, positions: int, pad_token: int, eos_token: int
) -> LlamaForCausalLM:
    """Build a Llama with random weights.

    vocabulary: the number of tokens. positions: the longest input, in tokens. Attention is `eager` where products are in bfloat16,
    else `sdpa`. Each is faster for its type, with rows of a few hundred tokens.
    """
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp_width,
        num_hidden_layers=layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token,
        pad_token_id=pad_token,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager" if product_dtype() == torch.bfloat16 else "sdpa")
    return model


def grown(small: LlamaForCausalLM, large: LlamaForCausalLM) -> LlamaForCausalLM:
    """Give `large`, which has more layers, the function of `small`. The additional layers on top add zero. Returns `large`."""
    large.load_state_dict(small.state_dict(), strict=False)
    for layer in list(large.model.layers)[len(small.model.layers) :]:
        assert isinstance(layer, LlamaDecoderLayer)
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return large
