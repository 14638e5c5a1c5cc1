"""PACER (2602.01274; AR 7.2): a trained pre-verifier scores a draft block by block, and ends it behind a block that fails.

The notes on the paper give the blocks and the stop. They do not give the layer, its inputs, the score, the block size and the
threshold. Here the network is that of `sdbench.drafting.lengths.acceptance_network`, and the rest are options.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdbench import validate
from sdbench.drafting.lengths.trained import TrainedPolicy

SCORES = ("whole", "mean", "least")
_Seen = dict[int, Tensor]  # by the depth of a drafted token, its features


class Pacer(TrainedPolicy):
    """Draft blocks of tokens, and stop behind the first block whose score is at most `threshold`. That block is kept.

    weights: the folder of a trained network (`sdbench train recipe=pacer`), which also says how many tokens a block has.
    score: of a block: `whole`, the predicted probability that all its tokens are kept; `mean` or `least`, the mean or the least of
    the predictions for its tokens. Raises: InputError if the folder cannot be used.
    """

    def __init__(self, weights: str, threshold: float = 0.5, score: str = "whole") -> None:
        super().__init__(weights, threshold, "pacer")
        self.score = validate.choice("lengths.score", score, SCORES)

    def start(self) -> _Seen:
        return {}

    def judge(self, features: Float[Tensor, "B F"], depth: int | np.ndarray, memory: list[_Seen]) -> Bool[Tensor, " B"]:
        size, depths = self.network.shape.block, np.broadcast_to(depth, len(memory)).tolist()
        for seen, place, own in zip(memory, depths, features, strict=True):
            seen[place] = own
        on = torch.ones(len(memory), dtype=torch.bool, device=features.device)
        ended = [row for row, place in enumerate(depths) if place % size == size - 1]
        if ended:
            blocks = [torch.stack([memory[row][depths[row] - size + 1 + j] for j in range(size)]) for row in ended]
            on[ended] = self.scored(self.network.kept(torch.stack(blocks))) > self.threshold
        return on

    def scored(self, kept: Float[Tensor, "N b"]) -> Float[Tensor, " N"]:
        """Return the scores of blocks. kept: what the network predicts for their tokens."""
        if self.score == "whole":
            return kept.prod(-1)
        return kept.mean(-1) if self.score == "mean" else kept.amin(-1)
