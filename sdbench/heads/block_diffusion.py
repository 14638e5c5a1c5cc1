"""A block-diffusion drafter: a block of mask tokens is denoised in one pass (DFlash, 2602.06036; SpecDiff-2, 2511.00606).

A few layers read the last decided token and K mask tokens behind it, and each position sees the whole block. The target's hidden
states are fused into one feature per token, norm(Linear(h)). Every layer makes keys and values of the features too, with its own
weights, and so the block sees the text (github z-lab/dflash, dflash/model.py). The tensors have the names of published DFlash
checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench.heads.parallel import EMBEDDING, HEAD, ParallelConfig, ParallelHead
from sdbench.heads.parts import Layer, blocks_mask, blocks_positions, part


class BlockDiffusion(ParallelHead):
    """A DFlash-like head. The embedding and the head are the target's.

    mask_id: the token of the target whose embedding is the mask's; None: the mask is a trained vector.
    """

    kind = "block_diffusion"
    borrows = (EMBEDDING, HEAD)
    causal = False

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        layer, width = self.config, self.config.hidden_size
        self.block = self.depth + 1
        self.fc = nn.Linear(len(config.layers or ()) * config.target_width, width, bias=False)
        self.hidden_norm, self.norm = (part(layer, "RMSNorm")(width, eps=layer.rms_norm_eps) for _ in range(2))
        self.layers = nn.ModuleList([Layer(layer, number) for number in range(layer.num_hidden_layers)])
        self.rotary_emb = part(layer, "RotaryEmbedding")(layer)
        self._mask_id = config.options.get("mask_id")
        if self._mask_id is None:
            self.mask = nn.Parameter(torch.randn(width) * layer.initializer_range)

    @classmethod
    def taps(cls, depth: int) -> tuple[int, ...]:
        """Return five hidden states at equal distances, from 2 to the last but two, as DFlash does."""
        last = max(depth - 2, 2)
        return tuple(sorted({round(2 + number * (last - 2) / 4) for number in range(5)}))

    def _denoised(
        self,
        anchors: Int[Tensor, "B N"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B Q E"] | None,
        cache: Any = None,
    ) -> Float[Tensor, "B N K W"]:
        """Denoise a block behind each of N anchors. positions: of the C places, then of the blocks."""
        empty = self.mask if self._mask_id is None else self.embed_tokens.weight[self._mask_id]
        first = self.embed_tokens(anchors)[:, :, None]
        states = torch.cat([first, empty.expand(*anchors.shape, self.depth, -1)], 2).flatten(1, 2)
        features = self.hidden_norm(self.fc(hidden))
        rotation = self.rotary_emb(states, positions)
        for layer in self.layers:
            states = layer(states, rotation, mask, cache, features)
        return self.norm(states).unflatten(1, (-1, self.block))[:, :, 1:]

    def states(self, tokens: Int[Tensor, "B P"], hidden: Float[Tensor, "B P S3"]) -> Float[Tensor, "B P K W"]:
        count = tokens.shape[1]
        positions = blocks_positions(count, self.block, tokens.device)
        mask = blocks_mask(count, self.block, False, tokens.device)[:, count:]
        return self._denoised(tokens, hidden, positions, mask)

    def passed(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any,
    ) -> Float[Tensor, "B K W"]:
        seen = None if mask is None else mask[:, tokens.shape[1] :]
        return self._denoised(tokens[:, -1:], hidden, positions, seen, cache)[:, 0]
