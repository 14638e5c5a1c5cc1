"""SpecFormer (2511.20340; github ShiLuohe/SpecFormer): a causal layer over the text, then attention among the drafts.

    f   = Linear(norm_1(h_1), ..., norm_4(h_4))      the hidden states 0, L/2, L - 1 and L of the target
    c   = f + causal attention(norm(f))               over the text, with a cache
    x_k = k-th part of Linear(norm(c))                the positional layer, W -> K W
    x   = x + attention among the K drafts(norm(x))
    x   = x + SwiGLU(norm(x))

and then the last norm and the head of the target. No token is read. In the released code the attention among the drafts is causal
with rotary positions. The paper describes it as bidirectional; the code then gives it no positions.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench import validate
from sdbench.heads.parallel import HEAD, ParallelConfig, ParallelHead
from sdbench.heads.parts import attend, blocks_mask, part


class SpecFormer(ParallelHead):
    """A SpecFormer head. The head is the target's, and so is the last norm, of which it stores a copy.

    drafts: the attention among the drafts, `causal` (as released) or `bidirectional` (as described).
    """

    kind = "specformer"
    borrows = (HEAD,)

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        layer, width, states = self.config, self.config.hidden_size, config.target_width
        asked = config.options.get("drafts", "causal")
        self._rotated = validate.choice("drafts", asked, ("causal", "bidirectional")) == "causal"
        norm = part(layer, "RMSNorm")
        taps = len(config.layers or ())
        self.norms = nn.ModuleList([norm(states, eps=layer.rms_norm_eps) for _ in range(taps)])
        self.fuse = nn.Linear(taps * states, width, bias=False)
        self.context_norm, self.positional_norm, self.draft_norm, self.mlp_norm = (
            norm(width, eps=layer.rms_norm_eps) for _ in range(4)
        )
        self.context_attention, self.draft_attention = (part(layer, "Attention")(layer, 0) for _ in range(2))
        self.positional = nn.Linear(width, self.depth * width)
        self.mlp = part(layer, "MLP")(layer)
        self.norm = norm(width, eps=layer.rms_norm_eps).requires_grad_(False)
        self.rotary_emb = part(layer, "RotaryEmbedding")(layer)

    @classmethod
    def taps(cls, depth: int) -> tuple[int, ...]:
        return tuple(sorted({0, depth // 2, depth - 1, depth}))

    def initialise(self, target: Any) -> None:
        body = target.get_decoder() if hasattr(target, "get_decoder") else target.base_model
        norms = [child for child in body.children() if "norm" in type(child).__name__.lower()]
        self.norm.weight.data.copy_(norms[-1].weight.data)

    def _drafted(
        self,
        hidden: Float[Tensor, "B C S3"],
        queries: int,
        positions: Int[Tensor, "#B C"],
        mask: Bool[Tensor, "#B Q E"] | None,
        cache: Any = None,
    ) -> Float[Tensor, "B Q K W"]:
        """Return the states at the last `queries` places."""
        sides = hidden.chunk(len(self.norms), -1)
        fused = self.fuse(torch.cat([norm(side) for norm, side in zip(self.norms, sides, strict=True)], -1))
        normed = self.context_norm(fused)
        rotation = self.rotary_emb(fused, positions)
        seen = attend(self.context_attention, normed[:, -queries:], normed, rotation, mask, cache)
        context = self.positional_norm(fused[:, -queries:] + seen)
        drafts = self.positional(context).unflatten(-1, (self.depth, -1)).flatten(0, 1)
        order, among = None, None
        if self._rotated:
            numbers = torch.arange(self.depth, device=drafts.device)
            order, among = self.rotary_emb(drafts, numbers[None]), (numbers <= numbers[:, None])[None]
        normed = self.draft_norm(drafts)
        drafts = drafts + attend(self.draft_attention, normed, normed, order, among)
        drafts = drafts + self.mlp(self.mlp_norm(drafts))
        return self.norm(drafts).unflatten(0, (len(hidden), queries))

    def states(self, tokens: Int[Tensor, "B P"], hidden: Float[Tensor, "B P S3"]) -> Float[Tensor, "B P K W"]:
        count = tokens.shape[1]
        positions = torch.arange(count, device=tokens.device)[None]
        return self._drafted(hidden, count, positions, blocks_mask(count, 0, True, tokens.device))

    def passed(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any,
    ) -> Float[Tensor, "B K W"]:
        return self._drafted(hidden, 1, positions, None if mask is None else mask[:, -1:], cache)[:, 0]
