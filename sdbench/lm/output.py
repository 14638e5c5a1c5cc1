"""The result of one step of a language model."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class StepOutput:
    """What one step computed.

    logits: [B, R, V], one row of logits for each of the R requested queries.
    best: [B, R], the most likely token of each of these queries. None if the step did not compute it.
    missed: the execution mode had no program for the shape of the step, so the model's own forward ran instead.
    """

    logits: Float[Tensor, "B R V"]
    best: Int[Tensor, "B R"] | None = None
    missed: bool = False
