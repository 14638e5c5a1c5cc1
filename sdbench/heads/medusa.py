"""Medusa-1 (2401.10774; github FasterDecoding/Medusa): K heads over the last hidden state of a frozen target.

Head k is a stack of residual blocks x + SiLU(Linear(x)) and a linear layer over the vocabulary. It starts as a copy of the target's
own head: the blocks start at zero. The tensors have the names of published checkpoints: `K.I.linear.weight` for block I of head K,
and then `K.I.weight` for its linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from sdbench import validate
from sdbench.heads.parallel import ParallelConfig, ParallelHead


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)

    def forward(self, states: Float[Tensor, "*B W"]) -> Float[Tensor, "*B W"]:
        return states + silu(self.linear(states))


class Medusa(ParallelHead):
    """Medusa heads. They read the state behind the target's last norm, and no token.

    blocks: residual blocks of each head.
    """

    kind = "medusa"
    borrows = ()
    stateful = False

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        blocks = validate.whole("blocks", config.options.get("blocks", 1), 0)
        width, proposed = config.target_width, config.draft_vocab
        for head in range(self.depth):
            stack = [_Residual(width) for _ in range(blocks)]
            self.add_module(str(head), nn.Sequential(*stack, nn.Linear(width, proposed, bias=False)))

    def initialise(self, target: Any) -> None:
        rows = target.get_output_embeddings().weight.data[self.proposed]
        for head in range(self.depth):
            self.get_submodule(str(head))[-1].weight.data.copy_(rows)  # pyright: ignore[reportIndexIssue]

    def states(self, tokens: Int[Tensor, "B P"], hidden: Float[Tensor, "B P S3"]) -> Float[Tensor, "B P K W"]:
        return hidden[:, :, None].expand(-1, -1, self.depth, -1)

    def passed(
        self,
        tokens: Int[Tensor, "B C"],
        hidden: Float[Tensor, "B C S3"],
        positions: Int[Tensor, "#B T"],
        mask: Bool[Tensor, "#B T E"] | None,
        cache: Any,
    ) -> Float[Tensor, "B K W"]:
        return hidden[:, -1:].expand(-1, self.depth, -1)

    def logits(self, states: Float[Tensor, "B P W"], step: int) -> Float[Tensor, "B P R"]:
        return self.get_submodule(str(step))(states)

    def all_logits(self, states: Float[Tensor, "B K W"]) -> Float[Tensor, "B K R"]:
        return torch.cat([self.logits(states[:, step : step + 1], step) for step in range(self.depth)], 1)
