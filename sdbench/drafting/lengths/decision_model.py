"""The decision model of Improving MCSD (2409.10644; github JackZeng0208/DynaSD; FA B.5): a trained network ends the draft."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from sdbench.drafting.lengths.trained import TrainedPolicy


class DecisionModel(TrainedPolicy):
    """Stop behind the first token of which the network predicts an acceptance of at most `threshold`. That token is kept.

    weights: the folder of a trained network (`sdbench train recipe=decision_model`). threshold: the paper's is 0.4.

    In the released code the network reads the state before the token is drawn, and the token is kept, as here. So the policy drops
    no token because of its value. Raises: InputError if the folder cannot be used.
    """

    def __init__(self, weights: str, threshold: float = 0.4) -> None:
        super().__init__(weights, threshold, "decision_model")

    def judge(self, features: Float[Tensor, "B F"], depth: int | np.ndarray, memory: list[Any]) -> Bool[Tensor, " B"]:
        return self.network.kept(features[:, None])[:, 0] > self.threshold
