"""Distil the target into a draft made of some of its layers (DistillSpec, 2310.08461).

DATA is the source of the sequences, and with `on_policy` the draft's own texts. DIVERGENCE and TOKEN MASK say what a token teaches.
UPDATE is offline: the weights serve after the training. `sdbench.training.online_drafter` has the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sdbench import validate
from sdbench.errors import InputError
from sdbench.models.skeleton import attention_kinds
from sdbench.models.vocabulary import most_frequent
from sdbench.sampling import Sampling
from sdbench.training.batches import padded, passes
from sdbench.training.corpus import Corpus, Sample
from sdbench.training.divergences import DIVERGENCES, LEAST, Compared, compare, divergence, streak
from sdbench.training.job import Job
from sdbench.training.lesson import Lesson, Use
from sdbench.training.network_calls import product_mode
from sdbench.training.optimise import Loss, Optimiser, Schedule
from sdbench.training.sources.base import Source
from sdbench.training.student import Student, check_layers
from sdbench.training.teacher import Teacher
from sdbench.training.token_masks import loss_gap, rejected
from sdbench.training.writer import Writer

MASKS = ("every", "rejected", "loss_gap")
NORMALISERS = ("all", "kept")
STREAK = "streak"


class Distill:
    """Train some layers of the target as a draft.

    layers: numbers of the target's layers. data: the source of the sequences. data_tokens: answer tokens to collect.
    tokens, batch_tokens, learning_rate, warmup, weight_decay: see `sdbench.training.optimise.Schedule`.
    divergence: see `sdbench.training.divergences`, or streak. streak_length: the longest streak.
    vocabulary: the number of tokens that the draft proposes, the most frequent ones of the corpus; None: all.
    top: tokens of the target's law that are kept for each position. start: a folder with weights of an earlier training.
    mask: `every` token; those that are `rejected` with a probability of at least `least_rejected`; or `loss_gap` (AdaSPEC,
    2510.19779): the `share` of the tokens on which the draft is furthest behind a reference draft. The reference is distilled
    first, from the same start, with `reference_share` of the budget. So a training with another mask and the same budget has read
    as many tokens. (The paper compares epochs, which are not the same compute.) normaliser: the sum of the kept losses is
    divided by the number of `all` tokens, as in AdaSPEC's code, or of the `kept` ones, as in its text.
    on_policy: the share of the batches that hold texts of the draft itself (on-policy data). refresh: batches until the draft, as
    it then is, writes new ones.
    """

    title = "A draft distilled from its target"
    measures_sets = True

    def __init__(
        self,
        layers: Sequence[int],
        data: Source,
        data_tokens: int = 1_000_000,
        tokens: int = 2_000_000,
        batch_tokens: int = 2048,
        learning_rate: float = 3e-4,
        warmup: float = 0.05,
        weight_decay: float = 0.01,
        divergence: str = "kl_div",
        streak_length: int = 8,
        vocabulary: int | None = 8192,
        top: int = 64,
        start: str | None = None,
        mask: str = "every",
        least_rejected: float = 0.1,
        share: float = 0.4,
        reference_share: float = 0.5,
        normaliser: str = "all",
        on_policy: float = 0.0,
        refresh: int = 100,
    ) -> None:
        self.layers, self.data = list(layers), data
        self.data_tokens = validate.whole("recipe.data_tokens", data_tokens, 1)
        self.schedule = Schedule(tokens, batch_tokens, learning_rate, warmup, weight_decay)
        self.divergence = validate.choice("recipe.divergence", divergence, (*DIVERGENCES, STREAK))
        self.streak_length = validate.whole("recipe.streak_length", streak_length, 1)
        self.vocabulary = None if vocabulary is None else validate.whole("recipe.vocabulary", vocabulary, 2)
        self.top, self.start = validate.whole("recipe.top", top, 1), start
        self.mask = validate.choice("recipe.mask", mask, MASKS)
        self.least_rejected = validate.number("recipe.least_rejected", least_rejected, 0, 1)
        self.share = validate.number("recipe.share", share, 0, 1, "(]")
        self.reference_share = validate.number("recipe.reference_share", reference_share, 0, 1, "()")
        self.normaliser = validate.choice("recipe.normaliser", normaliser, NORMALISERS)
        self.on_policy = validate.number("recipe.on_policy", on_policy, 0, 1)
        self.refresh = validate.whole("recipe.refresh", refresh, 1)
        if on_policy and int(refresh * on_policy) < 1:
            raise InputError(
                f"recipe.on_policy is {on_policy} and recipe.refresh {refresh}: of so few batches none would hold texts of the "
                "draft, so raise one of the two."
            )
        if not callable(getattr(data, "chunks", None)):
            raise InputError("recipe.data is no source of training data: choose one with data=NAME.")
        if divergence == STREAK and mask != "every":
            raise InputError(
                f"recipe.divergence=streak is a loss of whole texts, so recipe.mask={mask} cannot choose tokens: take every."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, for the card."""
        own = {name: value for name, value in vars(self).items() if name not in ("data", "schedule")}
        return {**own, **vars(self.schedule)}

    def run(self, job: Job) -> dict[str, Any]:
        self.check(job)
        corpus = job.corpus(self.data, self.data_tokens)
        for one in (corpus, *job.sets.values()):
            self.check_texts(one)
        lesson = self.lesson(job, corpus)
        student = self.student(job, corpus)
        untrained = lesson.held_out(student)
        log: list[dict[str, Any]] = []
        schedule, reference = self.schedule, None
        if self.mask == "loss_gap":
            first = replace(schedule, tokens=int(schedule.tokens * self.reference_share))
            schedule, reference = replace(schedule, tokens=schedule.tokens - first.tokens), student.copy()
            log += self._train(job, lesson, reference, "reference", first)
        log += self._train(job, lesson, student, "draft", schedule, reference, log[-1] if log else {})
        student.write(job.out)
        student.load_folder(str(job.out))  # what is measured now are the weights as they were written, in bfloat16
        before = {f"{name}_before_training": value for name, value in untrained.items()}
        job.facts |= self.facts(job, student)
        job.measure_sets(lambda one: self._results(self.lesson(job, one, Use.MEASURING), student))
        measured = {**self._results(lesson, student), **before}
        return job.finish(self.title, self.settings, measured, log)

    @staticmethod
    def _results(lesson: DraftLesson, student: Student) -> dict[str, Any]:
        return lesson.results(lesson.named(student))

    def facts(self, job: Job, student: Student) -> dict[str, Any]:
        """Return what the card says of the trained draft, beside the measured values."""
        return {}

    def check(self, job: Job) -> None:
        """Refuse settings that do not fit the target. Errors: InputError, before the corpus is made."""
        vocab = job.family.vocab
        if not attention_kinds(job.family.main.config):
            raise InputError(
                "The target has no attention layers, and a draft of some of its layers cannot be made: choose another target."
            )
        check_layers(self.layers, job.family.main.config.num_hidden_layers)
        if self.vocabulary is not None and self.vocabulary >= vocab:
            raise InputError(
                f"recipe.vocabulary is {self.vocabulary}, but the target has {vocab} tokens: take fewer, or null for all of them."
            )
        job.check_top(self.top)
        if self.start is not None:
            Student(job.target, self.layers).load_folder(self.start)

    def check_texts(self, corpus: Corpus) -> None:
        """Refuse texts that this recipe cannot train on or measure on. Errors: InputError."""

    def lesson(self, job: Job, corpus: Corpus, use: Use = Use.BOTH) -> DraftLesson:
        """Return a corpus with what the target says about it."""
        return DraftLesson(job, corpus, job.teacher(corpus, self.top), use)

    def student(self, job: Job, corpus: Corpus) -> Student:
        """Return the untrained draft, or the one of `start`."""
        ids = None
        if self.vocabulary is not None:
            sequences = (sample.tokens for sample in corpus.samples)
            ids = most_frequent(sequences, self.vocabulary, job.family.eos, job.family.vocab, "draft")
        student = Student(job.target, self.layers, ids)
        if self.start is not None:
            student.load_folder(self.start)
        return student

    def _train(
        self,
        job: Job,
        lesson: DraftLesson,
        student: Student,
        name: str,
        schedule: Schedule,
        reference: Student | None = None,
        before: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Train a draft up to the budget of a schedule. before: the last row of the stage before. Returns the log."""

        def placed(row: Mapping[str, Any]) -> dict[str, Any]:
            sums = {key: round(row[key] + (before or {}).get(key, 0), 1) for key in ("step", "tokens", "seconds")}
            return {**row, **sums, "stage": name}

        def said(row: Mapping[str, Any]) -> None:
            job.tracker.curve(placed(row))

        optimiser = Optimiser(student.weights, schedule, job.state / name, said)

        def batches(number: int) -> Iterable[tuple[DraftLesson, list[int]]]:
            order = passes(lesson.corpus.samples, lesson.training, schedule.batch_tokens, job.seed, number)
            if not self.on_policy:
                return ((lesson, places) for places in order)
            return self._with_own(job, lesson, student, order, name, number)

        optimiser.run(
            batches,
            lambda batch: self._loss(batch[0], batch[1], student, reference),
            lambda: lesson.held_out(student),
            after=self.held(student),
        )
        return [placed(row) for row in optimiser.log]

    def held(self, student: Student) -> Callable[[], None] | None:
        """Return what is done after each step of a training."""
        return None

    def _with_own(
        self, job: Job, lesson: DraftLesson, student: Student, order: Sequence[list[int]], name: str, number: int
    ) -> Iterator[tuple[DraftLesson, list[int]]]:
        """Yield batches of the corpus, and in place of some of them batches that the draft has answered itself."""
        own, written = lesson, []
        for place, batch in enumerate(order):
            if place % self.refresh == 0:
                taken = order[place : place + int(self.refresh * self.on_policy)]
                own = own_texts(
                    job, lesson, student, [one for part in taken for one in part], f"{name}-{number}-{place}"
                )
                written = passes(own.corpus.samples, own.training, self.schedule.batch_tokens, job.seed, number)
            turn = place % self.refresh
            mine = int((turn + 1) * self.on_policy) > int(turn * self.on_policy)
            yield (own, written.pop()) if mine and written else (lesson, batch)

    def _loss(self, lesson: DraftLesson, places: Sequence[int], student: Student, reference: Student | None) -> Loss:
        """Return the loss of a batch."""
        one = lesson.compared(student, places)
        notes = {"alpha": float(one.alpha.detach().mean())}
        if self.divergence == STREAK:
            counted = padded(lesson.samples(places))[1][:, 1:].to(one.log_token.device)
            log_token = one.log_token.new_full(counted.shape, -torch.inf).masked_scatter(
                counted, one.log_token.clamp(min=LEAST)
            )
            return Loss(streak(log_token, counted, self.streak_length), int(counted.sum()), notes)
        losses = divergence(self.divergence)(one)
        if reference is not None:
            with torch.no_grad():
                known = divergence(self.divergence)(lesson.compared(reference, places))
            kept = loss_gap(losses, known, self.share)
        elif self.mask == "rejected":
            kept = rejected(one.alpha, self.least_rejected)
        else:
            kept = torch.ones_like(losses, dtype=torch.bool)
        count = len(losses) if self.normaliser == "all" else max(int(kept.sum()), 1)
        return Loss(losses[kept].sum() / count, len(losses), {**notes, "kept": float(kept.float().mean())})


def own_texts(job: Job, lesson: DraftLesson, student: Student, places: Sequence[int], name: str) -> DraftLesson:
    """Let a draft answer the prompts of some sequences, and the target say what it would have written (on-policy data).

    The texts are kept, so a training that was killed goes on with the same ones. name: of their folder.
    """
    folder = job.state / "own_texts" / name
    corpus = Corpus(folder / "corpus.jsonl")
    if not len(corpus):
        asked = lesson.samples(places)
        prompts, names = [one.tokens[: one.prompt] for one in asked], [one.source for one in asked]
        writer = Writer(student.deployed(), job.tokenizer, job.family.eos, job.rows)
        longest = max(len(one.answer) for one in asked)
        if job.family.context is not None:
            longest = min(longest, job.family.context - 1 - max(one.prompt for one in asked))
        answers = writer.write(prompts, names, Sampling(1.0), longest, job.seed)
        corpus.add(
            Sample([*prompt, *answer], len(prompt), source)
            for prompt, answer, source in zip(prompts, answers, names, strict=True)
        )
    teacher = Teacher(job.target, corpus, lesson.teacher.top, folder / "target")
    teacher.read_all()
    return DraftLesson(job, corpus, teacher, Use.TRAINING)


class DraftLesson(Lesson):
    """A lesson for a draft model."""

    def compared(self, student: Student, places: Sequence[int]) -> Compared:
        """Compare a draft with the target on the answers of some sequences, one behind the other."""
        tokens, answer = padded(self.samples(places))
        wanted = answer[:, 1:]
        with product_mode(student.model):
            logits = student.logits(tokens[:, :-1], wanted)
        return compare(logits, self.teacher.laws(places), tokens[:, 1:][wanted], student.own)

    def held_out(self, student: Student) -> dict[str, float]:
        """Measure a draft on held-out sequences: its `alpha` and `greedy`."""
        return self.measured(self.named(student))

    def named(self, student: Student) -> Callable[[Sequence[int]], dict[str, Compared]]:
        """Return what compares a draft on some sequences, by the ending of its names."""
        return lambda places: {"": self.compared(student, places)}
