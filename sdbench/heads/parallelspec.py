"""ParallelSpec (2410.05589): a small decoder reads mask tokens behind the last decided token, and predicts a token at each.

Place p enters as Linear(embedding of token p + 1, hidden states of token p), as in EAGLE. The output there predicts token p + 2.
K - 1 mask tokens follow, and predict the tokens behind it. The whole text is causal. Each mask token is a trained vector in place
of the fused input: this is sdbench's choice, because the target has no hidden state there.

Without taps the head reads tokens only, as PARD (2504.18583) does, whose draft is a whole small model. A published PARD model is a
plain causal language model: draft with it by `mask_token` of `sdbench.drafting.ParallelDrafter`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench.heads.parallel import EMBEDDING, HEAD, ParallelConfig, ParallelHead
from sdbench.heads.parts import Layer, blocks_mask, blocks_positions, part


class ParallelSpec(ParallelHead):
    """A decoder of `config.layer.num_hidden_layers` layers. The embedding and the head are the target's."""

    kind = "parallelspec"
    borrows = (EMBEDDING, HEAD)

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        layer, width = self.config, self.config.hidden_size
        self.block = self.depth - 1
        taps = len(config.layers or ())
        self.fc = nn.Linear(width + taps * config.target_width, width, bias=False) if taps else nn.Identity()
        self.masks = nn.Parameter(torch.randn(self.block, width) * layer.initializer_range)
        self.layers = nn.ModuleList([Layer(layer, number) for number in range(layer.num_hidden_layers)])
        self.norm = part(layer, "RMSNorm")(width, eps=layer.rms_norm_eps)
        self.rotary_emb = part(layer, "RotaryEmbedding")(layer)

    def _read(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        blocks: int,
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any = None,
    ) -> Float[Tensor, "B T W"]:
        """Read C places, and behind them `blocks` blocks of masks."""
        fused = self.fc(torch.cat([self.embed_tokens(tokens), hidden], -1))
        states = torch.cat([fused, self.masks.repeat(blocks, 1).expand(len(tokens), -1, -1)], 1)
        rotation = self.rotary_emb(states, positions)
        for layer in self.layers:
            states = layer(states, rotation, mask, cache)
        return self.norm(states)

    def states(self, tokens: Int[Tensor, "B P"], hidden: Float[Tensor, "B P S3"]) -> Float[Tensor, "B P K W"]:
        count = tokens.shape[1]
        positions = blocks_positions(count, self.block, tokens.device)
        mask = blocks_mask(count, self.block, True, tokens.device)
        states = self._read(tokens, hidden, count, positions, mask)
        masked = states[:, count:].unflatten(1, (count, self.block))
        return torch.cat([states[:, :count, None], masked], 2)

    def passed(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any,
    ) -> Float[Tensor, "B K W"]:
        return self._read(tokens, hidden, 1, positions, mask, cache)[:, tokens.shape[1] - 1 :]
