"""A corpus with what the target says about it: what every recipe of a drafter trains on, and measures itself on.

Shapes: B sequences, T tokens of the longest one, k tokens of the target's law that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.training.batches import padded
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.divergences import Compared, compare
from sdbench.training.job import Job
from sdbench.training.teacher import Teacher, TopLaw

WATCHED = 48  # held-out sequences that are measured for each row of the log
_RESAMPLES = 2000


class Use(Enum):
    """What the sequences of a corpus are for: training, measuring, or both, where some of them are held out."""

    BOTH = "both"
    TRAINING = "training"
    MEASURING = "measuring"


@dataclass(frozen=True)
class Texts:
    """Some sequences, padded on the right. ids, probs: the target's law of each token of an answer (`TopLaw`).

    tokens: [B, T]. answer: [B, T] which of them belong to answers.
    """

    tokens: Int[Tensor, "B T"]
    answer: Bool[Tensor, "B T"]
    ids: Int[Tensor, "B T k"]
    probs: Float[Tensor, "B T k"]

    def compared(
        self, logits: Float[Tensor, "N R"], at: tuple[Tensor, Tensor], own: Int[Tensor, " V"] | None = None
    ) -> Compared:
        """Compare a drafter's logits with the law of N tokens. at: their rows and columns. own: see `compare`."""
        return compare(logits, TopLaw(self.ids[at], self.probs[at]), self.tokens[at], own)


class Lesson:
    """Sequences to train on, and others to measure on.

    use: what the sequences are for. training: the numbers of those to train on. watched: of those to measure on.
    """

    def __init__(self, job: Job, corpus: Corpus, teacher: Teacher, use: Use = Use.BOTH) -> None:
        self.corpus, self.teacher = corpus, teacher
        training, held_out = job.split(corpus)
        every = list(range(len(corpus)))
        self.training = {Use.BOTH: training, Use.TRAINING: every, Use.MEASURING: []}[use]
        self.watched = {Use.BOTH: held_out[:WATCHED], Use.TRAINING: [], Use.MEASURING: every}[use]

    def samples(self, places: Sequence[int]) -> list[Sample]:
        """Return sequences by their numbers."""
        return [self.corpus.samples[place] for place in places]

    def texts(self, places: Sequence[int]) -> Texts:
        """Return sequences by their numbers, with the target's laws."""
        tokens, answer = padded(self.samples(places))
        law = self.teacher.laws(places)
        ids = torch.zeros(*answer.shape, law.ids.shape[1], dtype=torch.long)
        probs = torch.zeros(ids.shape)
        ids[answer], probs[answer] = law.ids, law.probs
        return Texts(tokens, answer, ids, probs)

    @torch.no_grad()
    def measured(self, compared: Callable[[Sequence[int]], Mapping[str, Compared]]) -> dict[str, float]:
        """Measure drafters on the watched sequences.

        compared: compares each drafter on some sequences, by the ending of its name. Returns for each ending `alpha`, the mean
        probability that the exact rule accepts a drafted token at temperature 1, and `greedy`, the share of places at which drafter
        and target have the same most likely token. An ending without any token has neither.
        """
        found = self._watched_tokens(compared, 4)
        joined = {name: torch.cat(parts) for name, parts in found.items()}
        return {name: float(values.mean()) for name, values in joined.items() if len(values)}

    def results(self, compared: Callable[[Sequence[int]], Mapping[str, Compared]]) -> dict[str, Any]:
        """Return what `measured` and `intervals` return."""
        return {**self.measured(compared), **self.intervals(compared)}

    @torch.no_grad()
    def intervals(self, compared: Callable[[Sequence[int]], Mapping[str, Compared]]) -> dict[str, list[float]]:
        """Return `NAME_ci95` of each name that `measured` returns: the bootstrap interval over the watched sequences.

        One sequence gives no interval.
        """
        if len(self.watched) < 2:
            return {}
        drawn = np.random.default_rng(0).integers(len(self.watched), size=(_RESAMPLES, len(self.watched)))
        found = {}
        for name, parts in self._watched_tokens(compared, 1).items():
            sums = np.zeros((len(self.watched), 2))
            sums[: len(parts)] = [(float(part.sum()), len(part)) for part in parts]
            if not sums[:, 1].any():
                continue
            totals = sums[drawn].sum(1)
            means = totals[:, 0] / np.maximum(totals[:, 1], 1)
            found[f"{name}_ci95"] = [round(float(end), 4) for end in np.percentile(means, (2.5, 97.5))]
        return found

    def _watched_tokens(
        self, compared: Callable[[Sequence[int]], Mapping[str, Compared]], rows: int
    ) -> dict[str, list[Tensor]]:
        """Return alpha and greedy of each token, by name, for `rows` watched sequences at a time."""
        alpha: dict[str, list[Tensor]] = {}
        greedy: dict[str, list[Tensor]] = {}
        for first in range(0, len(self.watched), rows):
            for name, one in compared(self.watched[first : first + rows]).items():
                alpha.setdefault(f"alpha{name}", []).append(one.alpha)
                greedy.setdefault(f"greedy{name}", []).append(one.best.float())
        return {**alpha, **greedy}
