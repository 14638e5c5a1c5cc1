"""Put sequences together into batches. The batches of a pass depend on the seed and the number of the pass only."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sdbench.training.corpus import Sample


def passes(
    samples: Sequence[Sample], places: Sequence[int], batch_tokens: int, seed: int, number: int
) -> list[list[int]]:
    """Return the batches of a pass over the data, each a list of numbers of sequences.

    Sequences of similar length stand together, which saves padding.

    places: the sequences to use. batch_tokens: the largest size of a batch, with its padding.
    """
    rng = random.Random(f"{seed}/{number}")
    order = list(places)
    rng.shuffle(order)
    order.sort(key=lambda place: len(samples[place].tokens) // 16)  # stable: equal lengths stay shuffled
    batches: list[list[int]] = []
    row: list[int] = []
    for place in order:
        longest = max(len(samples[one].tokens) for one in [*row, place])
        if row and (len(row) + 1) * longest > batch_tokens:
            batches.append(row)
            row = []
        row.append(place)
    if row:
        batches.append(row)
    rng.shuffle(batches)
    return batches


def padded(samples: Sequence[Sample]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return the tokens of sequences, padded on the right, and which of them belong to answers."""
    longest = max(len(sample.tokens) for sample in samples)
    tokens = torch.zeros(len(samples), longest, dtype=torch.long)
    answer = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        tokens[row, : len(sample.tokens)] = torch.tensor(sample.tokens)
        answer[row, sample.prompt : len(sample.tokens)] = True
    return tokens, answer


def reading(samples: Sequence[Sample], most: int) -> Iterator[list[int]]:
    """Yield the places of sequences that are read together, the longest first. most: tokens of a batch with its padding."""
    order = sorted(range(len(samples)), key=lambda place: len(samples[place].tokens))
    while order:
        rows, longest = 1, len(samples[order[-1]].tokens)
        while rows < len(order) and (rows + 1) * longest <= most:
            rows += 1
        yield order[-rows:]
        order = order[:-rows]
