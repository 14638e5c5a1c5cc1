"""SpecDec's drafter (2203.16487; github hemingkx/SpecDec): an independent model with a deep encoder and a shallow decoder. The
decoder fills a block of K masks in one pass.

    e   = norm(encoder layers(embedding of the text))     causal, over a cache
    x   = K mask vectors behind the last token
    x   = decoder layers(x; e)                            every mask sees the text and the whole block

The paper's drafter translates: its encoder reads the source once, and its decoder the target so far. A language model has one
text. So here the encoder reads each token of the text once, and the decoder reads the block alone. The embedding and the head
are the target's. The paper trains with glancing, which shows the decoder some true tokens; sdbench's recipe does not.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench import validate
from sdbench.heads.parallel import EMBEDDING, HEAD, ParallelConfig, ParallelHead
from sdbench.heads.parts import Layer, blocks_mask, blocks_positions, part


class SpecDec(ParallelHead):
    """A drafter that reads tokens only.

    encoder_layers: the depth of the encoder. The decoder has `config.layer.num_hidden_layers` layers.
    """

    kind = "specdec"
    borrows = (EMBEDDING, HEAD)
    causal = False

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        layer, width = self.config, self.config.hidden_size
        deep = validate.whole("encoder_layers", config.options.get("encoder_layers", 4), 1)
        self.block = self.depth
        layer.num_hidden_layers += deep
        if getattr(layer, "layer_types", None):
            layer.layer_types = [layer.layer_types[0]] * layer.num_hidden_layers
        stack = [Layer(layer, number) for number in range(layer.num_hidden_layers)]
        self.encoder, self.layers = nn.ModuleList(stack[:deep]), nn.ModuleList(stack[deep:])
        self.encoder_norm, self.norm = (part(layer, "RMSNorm")(width, eps=layer.rms_norm_eps) for _ in range(2))
        self.mask = nn.Parameter(torch.randn(width) * layer.initializer_range)
        self.rotary_emb = part(layer, "RotaryEmbedding")(layer)

    @classmethod
    def taps(cls, depth: int) -> tuple[int, ...]:
        """Return no hidden state: the drafter reads the text itself."""
        return ()

    def _filled(
        self,
        encoded: Float[Tensor, "B C W"],
        blocks: int,
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B Q E"] | None,
        cache: Any = None,
    ) -> Float[Tensor, "B N K W"]:
        """Fill `blocks` blocks of masks. positions: of the C places, then of the blocks."""
        states = self.mask.expand(len(encoded), blocks * self.block, -1)
        rotation, context = self.rotary_emb(states, positions), self.encoder_norm(encoded)
        for layer in self.layers:
            states = layer(states, rotation, mask, cache, context)
        return self.norm(states).unflatten(1, (blocks, self.block))

    def states(self, tokens: Int[Tensor, "B P"], hidden: Float[Tensor, "B P S3"]) -> Float[Tensor, "B P K W"]:
        count = tokens.shape[1]
        positions = blocks_positions(count, self.block, tokens.device)
        mask = blocks_mask(count, self.block, False, tokens.device)
        states = self.embed_tokens(tokens)
        rotation = self.rotary_emb(states, positions[:, :count])
        for layer in self.encoder:
            states = layer(states, rotation, mask[:, :count, :count])
        return self._filled(states, count, positions, mask[:, count:])

    def passed(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any,
    ) -> Float[Tensor, "B K W"]:
        count = tokens.shape[1]
        # Every layer of a cache holds the same slots, so the encoder fills those of the block too. Nothing reads them.
        states = torch.cat([self.embed_tokens(tokens), self.mask.expand(len(tokens), self.block, -1)], 1)
        rotation = self.rotary_emb(states, positions)
        for layer in self.encoder:
            states = layer(states, rotation, mask, cache)
        seen = None if mask is None else mask[:, count:]
        return self._filled(states[:, :count], 1, positions, seen, cache)[:, 0]
