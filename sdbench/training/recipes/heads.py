"""Train a head: a drafter that reads the hidden states of the target, which stays as it is.

Every kind of head gives logits for several depths: depth 0 is the token behind the next one, and so on. An EAGLE-3 head is
unrolled over its own outputs, as in drafting (training-time test, 2503.01840). Other heads predict all depths in one pass.
The loss of a depth is a divergence from the target's law of that token, and falls by a factor from depth to depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench import validate
from sdbench.models.vocabulary import most_frequent
from sdbench.training.batches import passes
from sdbench.training.corpus import Corpus
from sdbench.training.divergences import DIVERGENCES, Compared, divergence
from sdbench.training.job import Job
from sdbench.training.lesson import Lesson, Use
from sdbench.training.network_calls import product_mode
from sdbench.training.optimise import Loss, Optimiser, Schedule
from sdbench.training.sources.base import Source
from sdbench.training.teacher import Teacher


class TrainableHead(Protocol):
    """A head as its training sees it."""

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...

    def unrolled(
        self, input_ids: Int[Tensor, "B T"], hidden: Float[Tensor, "B T W"], steps: int
    ) -> list[Float[Tensor, "B _ R"]]:
        """Return the logits [B, T - 1 - k, R] of each depth k: those at place p are for token p + 2 + k."""
        ...


class HeadMaker(Protocol):
    """Make a head of some kind for a target, and write it."""

    def layers(self, config: Any) -> tuple[int, ...]:
        """Return the numbers of the hidden states that the head reads. config: of the target."""
        ...

    def fresh(self, target: Any, ids: Sequence[int]) -> Any:
        """Return an untrained head in float32. target: the model. ids: those that the head proposes, ascending."""
        ...

    def write(self, folder: Path, head: Any, target: str, layers: tuple[int, ...]) -> None:
        """Write a head. target: its name. layers: the numbers of the hidden states that the head reads."""
        ...


class TrainHead:
    """Train a head.

    head: its kind. data, data_tokens, tokens, batch_tokens, learning_rate, warmup, weight_decay, divergence, vocabulary, top: as in
    `sdbench.training.recipes.distill`. steps: the depths that are trained. decay: the factor of the loss from depth to depth.
    """

    measures_sets = True

    def __init__(
        self,
        head: HeadMaker,
        data: Source,
        data_tokens: int = 1_000_000,
        tokens: int = 2_000_000,
        batch_tokens: int = 2048,
        learning_rate: float = 5e-4,
        warmup: float = 0.05,
        weight_decay: float = 0.01,
        divergence: str = "kl_div",
        vocabulary: int = 8192,
        top: int = 64,
        steps: int = 4,
        decay: float = 0.8,
    ) -> None:
        self.head, self.data = head, data
        self.data_tokens = validate.whole("recipe.data_tokens", data_tokens, 1)
        tokens = validate.whole("recipe.tokens", tokens, 1)
        self.schedule = Schedule(tokens, batch_tokens, learning_rate, warmup, weight_decay)
        self.divergence = validate.choice("recipe.divergence", divergence, tuple(DIVERGENCES))
        self.vocabulary, self.top = (
            validate.whole("recipe.vocabulary", vocabulary, 2),
            validate.whole("recipe.top", top, 1),
        )
        self.steps, self.decay = (
            validate.whole("recipe.steps", steps, 1),
            validate.number("recipe.decay", decay, 0, 1, "(]"),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, for the card."""
        own = {name: value for name, value in vars(self).items() if name not in ("data", "schedule", "head")}
        head = {"kind": type(self.head).__name__, **vars(self.head)}
        return {**own, **vars(self.schedule), "data": type(self.data).__name__, "head": head}

    def run(self, job: Job) -> dict[str, Any]:
        job.refuse_recurrent("heads")
        layers = self.head.layers(job.family.main.config)
        job.check_top(self.top)
        corpus = job.corpus(self.data, self.data_tokens)
        ids = self._ids(job, corpus)
        head = self.head.fresh(job.target, ids)

        def lesson_of(one: Corpus, use: Use = Use.BOTH) -> HeadLesson:
            return HeadLesson(job, one, job.teacher(one, self.top, layers), ids, use)

        lesson = lesson_of(corpus)
        weights = {name: weight for name, weight in head.named_parameters() if weight.requires_grad}
        optimiser = Optimiser(weights, self.schedule, job.state, job.tracker.curve)
        optimiser.run(
            lambda number: passes(corpus.samples, lesson.training, self.schedule.batch_tokens, job.seed, number),
            lambda places: self._loss(lesson, head, places),
            lambda: lesson.held_out(head, self.steps),
        )
        measured = lesson.results(lesson.named(head, self.steps))
        self.head.write(job.out, head, job.target_name, layers)

        def on_set(one: Corpus) -> dict[str, Any]:
            seen = lesson_of(one, Use.MEASURING)
            return seen.results(seen.named(head, self.steps))

        job.measure_sets(on_set)
        return job.finish("A head of its target", self.settings, measured, optimiser.log)

    def _ids(self, job: Job, corpus: Corpus) -> list[int]:
        if self.vocabulary >= job.family.vocab:
            return list(range(job.family.vocab))
        sequences = (sample.tokens for sample in corpus.samples)
        return most_frequent(sequences, self.vocabulary, job.family.eos, job.family.vocab, "head")

    def _loss(self, lesson: HeadLesson, head: TrainableHead, places: Sequence[int]) -> Loss:
        """Return the loss of a batch over all depths."""
        measure, total, weight, notes = divergence(self.divergence), torch.zeros(()), 0.0, {}
        for depth, one in lesson.compared(head, places, self.steps).items():
            total = total + self.decay ** (depth - 1) * measure(one).mean()
            weight += self.decay ** (depth - 1)
            notes[f"alpha_{depth}"] = float(one.alpha.detach().mean())
        return Loss(total / weight, sum(len(sample.answer) for sample in lesson.samples(places)), notes)


class HeadLesson(Lesson):
    """A lesson for a head. ids: those that the head proposes."""

    def __init__(self, job: Job, corpus: Corpus, teacher: Teacher, ids: Sequence[int], use: Use = Use.BOTH) -> None:
        super().__init__(job, corpus, teacher, use)
        self.own = torch.full((job.family.vocab,), -1)
        self.own[torch.tensor(ids)] = torch.arange(len(ids))
        self._model = job.target

    def compared(self, head: TrainableHead, places: Sequence[int], steps: int) -> dict[int, Compared]:
        """Compare a head with the target on the answers of some sequences, by depth from 1, as deep as they have tokens."""
        texts = self.texts(places)
        with product_mode(_Like(self._model)):
            depths = head.unrolled(texts.tokens, self.teacher.states(places), steps)
        found: dict[int, Compared] = {}
        for depth, logits in enumerate(depths):
            rows, columns = texts.answer[:, 2 + depth :].nonzero(as_tuple=True)
            if len(rows):
                found[depth + 1] = texts.compared(logits[rows, columns], (rows, columns + 2 + depth), self.own)
        return found

    def held_out(self, head: TrainableHead, steps: int) -> dict[str, float]:
        """Measure a head on held-out sequences: `alpha_d` and `greedy_d` of each depth d, behind the target's own tokens."""
        return self.measured(self.named(head, steps))

    def named(self, head: TrainableHead, steps: int) -> Callable[[Sequence[int]], dict[str, Compared]]:
        """Return what compares a head on some sequences, by depth."""
        return lambda places: {f"_{depth}": one for depth, one in self.compared(head, places, steps).items()}


class _Like:
    """Stands for a head in float32 on the device of a model."""

    def __init__(self, model: Any) -> None:
        self.device, self.dtype = model.device, torch.float32
