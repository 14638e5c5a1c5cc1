"""The module of an EAGLE-3 head (2503.01840; github SafeAILab/EAGLE, eagle/model/cnets.py, and vllm-project/speculators).

It fuses three hidden states of the target into one feature of width W. One decoder layer reads the normed embedding of a token
beside the normed feature of the token before it. Its output is the feature of the token: the state before the last norm. The
tensors have the names that speculators gives them.

Shapes: B rows, T tokens of a text, W the head's width, S the target's width, R proposed tokens, V tokens of the target.
"""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from sdbench.heads.config import STATES, HeadConfig

_NAMES = {"llama": "Llama", "qwen3": "Qwen3"}


class Eagle3(nn.Module):
    """An EAGLE-3 head, called as a causal language model of `transformers` over a cache that holds features.

    d2t: [R], what is added to the number of a proposed token to get its id in the target. t2d: [V], which ids are proposed.
    embedding: that of the target, for a head without its own (own_embedding). own_head: lm_head is its own, and not rows of the
    target's.
    """

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: HeadConfig, embedding: nn.Parameter | None = None) -> None:
        super().__init__()
        layer: Any = copy.deepcopy(config.layer)
        self.layers: Any
        # What the code of a program depends on belongs into the config that identifies it.
        layer.norm_before_residual, layer.target_width = config.norm_before_residual, config.target_width
        self.config, self.head_config, self.own_embedding = layer, config, embedding is None
        self.own_head = True
        width, vocab = layer.hidden_size, layer.vocab_size
        parts = import_module(f"transformers.models.{layer.model_type}.modeling_{layer.model_type}")
        make = {part: getattr(parts, _NAMES[layer.model_type] + part) for part in ("RMSNorm", "RotaryEmbedding")}
        self.embed_tokens = nn.Embedding(vocab, width, device="meta" if embedding is not None else None)
        if embedding is not None:
            self.embed_tokens.weight = embedding
        self.fc = nn.Linear(STATES * config.target_width, width, bias=False)
        self.layers = nn.ModuleList([_Layer(layer, parts)])
        self.norm = make["RMSNorm"](width, eps=layer.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.draft_vocab, bias=False)
        self.rotary_emb = make["RotaryEmbedding"](layer)
        self.register_buffer("d2t", torch.zeros(config.draft_vocab, dtype=torch.long))
        self.register_buffer("t2d", torch.arange(vocab) < config.draft_vocab)

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def proposed(self) -> Int[Tensor, " R"]:
        """The ids of the tokens that the head proposes, in the target's vocabulary."""
        return torch.arange(len(self.d2t), device=self.d2t.device) + self.d2t

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def fuse(self, hidden: Float[Tensor, "*batch S3"]) -> Float[Tensor, "*batch W"]:
        """Make features of three hidden states of the target, side by side."""
        return self.fc(hidden.to(self.dtype))

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        position_ids: Int[Tensor, "B T"] | None = None,
        past_key_values: Any = None,
        attention_mask: Float[Tensor, "B 1 T E"] | None = None,
        logits_to_keep: int = 0,
        use_cache: bool = True,
    ) -> CausalLMOutput:
        """Return the logits [B, R', R] of the last tokens (0: of all).

        past_key_values: a cache that holds the features of the tokens before. Over another cache the features are zero, which
        has the same cost: so the forward can be timed alone.
        """
        embeds, cache = self.embed_tokens(input_ids), past_key_values
        pooled = hasattr(cache, "parent_features")
        features = cache.parent_features(attention_mask, input_ids) if pooled else torch.zeros_like(embeds)
        if position_ids is None:
            position_ids = cache.get_seq_length() + torch.arange(input_ids.shape[1], device=embeds.device)[None]
        both, residual = self.layers[0].enter(embeds, features)
        attended, _ = self.layers[0].self_attn(
            both,
            position_embeddings=self.rotary_emb(embeds, position_ids),
            attention_mask=attention_mask,
            past_key_values=cache,
        )
        state = self.layers[0].leave(residual + attended)
        if pooled:
            state = cache.exchange_features(state)
        return CausalLMOutput(logits=self.logits(state[:, -logits_to_keep:]))

    def logits(self, states: Float[Tensor, "B T W"]) -> Float[Tensor, "B T R"]:
        """Return the logits over the proposed tokens behind output states of the layer."""
        return self.lm_head(self.norm(states))

    def unrolled(
        self, input_ids: Int[Tensor, "B T"], hidden: Float[Tensor, "B T S3"], steps: int
    ) -> list[Float[Tensor, "B _ R"]]:
        """Return the logits of training-time test: of a text, as if drafting had begun behind each of its tokens.

        Step k = 0, 1, ... reads token p + 1 + k for each place p, and gives logits [B, T - 1 - k, R] for token p + 2 + k. The
        tokens up to p + 1 are decided, and the k others drafted. So step 0 has the target's features. Each later step has the
        output of the step before it at the same place. A query attends to the keys of step 0 up to its place, and to those of the
        later steps at its own place.

        Everything can be differentiated. Rows of different lengths are padded on the right; leave the padding out of the loss.

        input_ids: the text. hidden: three hidden states of the target for each token, side by side. steps: their number.
        """
        state, layer, count = self.fuse(hidden), self.layers[0], input_ids.shape[1] - 1
        keys: list[Tensor] = []
        values: list[Tensor] = []
        logits = []
        for step in range(min(steps, count)):
            places = count - step
            embeds = self.embed_tokens(input_ids[:, step + 1 :])
            both, residual = layer.enter(embeds, state[:, :places])
            positions = torch.arange(1 + step, 1 + count, device=embeds.device)[None]
            query, key, value = layer.projected(both, self.rotary_emb(embeds, positions))
            keys.append(key)
            values.append(value)
            state = layer.leave(residual + layer.attended(query, keys, values))
            logits.append(self.logits(state))
        return logits


class _Layer(nn.Module):
    """The decoder layer of a head, whose attention reads 2W numbers of each token."""

    def __init__(self, config: Any, parts: Any) -> None:
        super().__init__()
        name, width, bias = _NAMES[config.model_type], config.hidden_size, config.attention_bias
        self.self_attn = getattr(parts, f"{name}Attention")(config, 0)
        for side in ("q_proj", "k_proj", "v_proj"):
            setattr(self.self_attn, side, nn.Linear(2 * width, getattr(self.self_attn, side).out_features, bias=bias))
        self.mlp = getattr(parts, f"{name}MLP")(config)
        norm = getattr(parts, f"{name}RMSNorm")
        self.input_layernorm = norm(width, eps=config.rms_norm_eps)
        self.hidden_norm = norm(width, eps=config.rms_norm_eps)
        self.post_attention_layernorm = norm(width, eps=config.rms_norm_eps)
        self._norm_before_residual = config.norm_before_residual

    def enter(
        self, embeds: Float[Tensor, "B T W"], features: Float[Tensor, "B T W"]
    ) -> tuple[Float[Tensor, "B T W2"], Float[Tensor, "B T W"]]:
        """Return what the attention reads, and the residual."""
        normed = self.hidden_norm(features)
        both = torch.cat([self.input_layernorm(embeds), normed], -1)
        return both, normed if self._norm_before_residual else features

    def leave(self, state: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """Return the output of the layer. state: the residual plus what was attended to."""
        return state + self.mlp(self.post_attention_layernorm(state))

    def projected(
        self, both: Float[Tensor, "B T W2"], rotation: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """Return queries, keys and values, each with as many heads as there are queries."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

        attention: Any = self.self_attn
        query, key, value = (
            getattr(attention, side)(both).unflatten(-1, (-1, attention.head_dim))
            for side in ("q_proj", "k_proj", "v_proj")
        )
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        turned = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), *rotation)
        groups = attention.num_key_value_groups
        return turned[0], repeat_kv(turned[1], groups), repeat_kv(value.transpose(1, 2), groups)

    def attended(
        self, query: Float[Tensor, "B H N D"], keys: list[Tensor], values: list[Tensor]
    ) -> Float[Tensor, "B N W"]:
        """Attend to the first keys up to the query's place, and to each later one at that place."""
        attention: Any = self.self_attn
        count = query.shape[2]
        first = query @ keys[0][:, :, :count].transpose(2, 3)
        later = torch.ones(count, count, dtype=torch.bool, device=query.device).triu(1)
        scores = [first.masked_fill(later, -torch.inf)]
        scores += [(query * key[:, :, :count]).sum(-1, keepdim=True) for key in keys[1:]]
        weights = (torch.cat(scores, -1) * attention.scaling).softmax(-1, dtype=torch.float32).to(query.dtype)
        seen = weights[..., :count] @ values[0][:, :, :count]
        for step, value in enumerate(values[1:]):
            seen = seen + weights[..., count + step, None] * value[:, :, :count]
        return attention.o_proj(seen.transpose(1, 2).flatten(2))
