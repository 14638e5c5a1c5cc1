"""The exactness oracle: it walks through every outcome of every choice, and so finds a method's exact output law.

All randomness of a decoder goes through `choose`. `Walk` replaces the hash there. It replays a prefix of choices, then takes the
first outcome of positive weight, and multiplies the probabilities of the path. `output_law` visits every path once, depth first.
The law is exact, so a method is lossless if and only if its distance to the target's law

    TV = 1/2 sum_y | law(y) - target(y) |

is a rounding error (below 1e-12). The decoder runs unchanged, on tabular models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.decoding.base import Decoder, Request
from sdbench.exactness.tabular import TabularModel, sequence_law
from sdbench.keyed_random import Key
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop

LOSSLESS = 1e-12


@dataclass
class Walk:
    """Choose along one path: `prefix` first, then always the first possible outcome.

    trail: the chosen index and the possible ones of each choice. weight: the probability of the path.
    """

    prefix: list[int] = field(default_factory=list)
    trail: list[tuple[int, list[int]]] = field(default_factory=list)
    weight: float = 1.0

    def choose(self, probs: Float[Tensor, "B V"], key: Key) -> Int[Tensor, " B"]:
        taken = []
        for row in probs.double():
            total, weights = float(row.sum()), row.tolist()
            possible = [index for index, weight in enumerate(weights) if weight > 0]
            depth = len(self.trail)
            index = self.prefix[depth] if depth < len(self.prefix) else possible[0]
            self.trail.append((index, possible))
            self.weight *= weights[index] / total
            taken.append(index)
        return torch.tensor(taken)


def output_law(run: Callable[[Walk], Any]) -> dict[Any, float]:
    """Return the exact law of the value that `run` returns (hashable), over all paths of its choices."""
    law: dict[Any, float] = {}
    pending: list[list[int]] = [[]]
    while pending:
        walk = Walk(pending.pop())
        outcome = run(walk)
        law[outcome] = law.get(outcome, 0.0) + walk.weight
        path = [index for index, _ in walk.trail]
        for depth in range(len(walk.prefix), len(walk.trail)):
            taken, possible = walk.trail[depth]
            pending += [[*path[:depth], other] for other in possible if other != taken]
    return law


def total_variation(law: dict[Any, float], other: dict[Any, float]) -> float:
    """Return half the sum of absolute differences of two laws."""
    return sum(abs(law.get(key, 0.0) - other.get(key, 0.0)) for key in law.keys() | other.keys()) / 2


def distance_from_target(
    decoder: Decoder,
    target: TabularModel,
    length: int,
    prompt: tuple[int, ...] = (0,),
    sampling: Sampling | None = None,
) -> float:
    """Return the TV between the law of the decoder's `length` tokens behind `prompt` and the target's own.

    sampling: None is temperature 1, at which the target's tables are its own law.
    """

    def run(walk: Walk) -> tuple[int, ...]:
        requests = [Request(list(prompt), "prompt")]
        decoder.begin_pass()  # each path begins with the same drafter
        (finished,) = decoder.generate(requests, sampling or Sampling(1.0), NeverStop(), length, choices=walk)
        return tuple(finished.tokens)

    return total_variation(output_law(run), sequence_law(target, prompt, length))
