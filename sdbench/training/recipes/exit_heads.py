"""Train exit heads: a W x W product between the states behind a layer and the target's own head (AdaDecode, 2506.03700).

The target stays as it is. Each head learns the target's law from the target's own hidden states, so the heads do not depend on each
other, and all exits are trained with one forward. The paper's loss is the divergence KL(p || q) to the last layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.heads.exit_config import ExitConfig
from sdbench.heads.exit_heads import ExitHeads, write_exits
from sdbench.lm.early_exit import first_layers, last_norm, layers_of
from sdbench.training.batches import padded, passes
from sdbench.training.corpus import Corpus
from sdbench.training.divergences import DIVERGENCES, Compared, compare, divergence
from sdbench.training.job import Job
from sdbench.training.lesson import Lesson, Use
from sdbench.training.network_calls import hidden_behind, product_mode
from sdbench.training.optimise import Loss, Optimiser, Schedule
from sdbench.training.sources.base import Source
from sdbench.training.teacher import Teacher


class TrainExitHeads:
    """Train exit heads of the target, which begin as the identity.

    data: the source of the sequences. data_tokens: answer tokens to collect. layers: the exits, each by the number of layers before
    it. None: a quarter, a half and three quarters of the target's layers, which are the paper's 8, 16 and 24 of 32.
    tokens, batch_tokens, learning_rate, warmup, weight_decay: see `sdbench.training.optimise.Schedule`. divergence: see
    `sdbench.training.divergences`. top: tokens of the target's law that are kept for each position.
    """

    measures_sets = True

    def __init__(
        self,
        data: Source,
        data_tokens: int = 1_000_000,
        layers: Sequence[int] | None = None,
        tokens: int = 2_000_000,
        batch_tokens: int = 2048,
        learning_rate: float = 1e-3,
        warmup: float = 0.05,
        weight_decay: float = 0.0,
        divergence: str = "kl_div",
        top: int = 64,
    ) -> None:
        self.data, self.data_tokens = data, validate.whole("recipe.data_tokens", data_tokens, 1)
        self.layers = None if layers is None else [validate.whole("recipe.layers", layer, 1) for layer in layers]
        tokens = validate.whole("recipe.tokens", tokens, 1)
        self.schedule = Schedule(tokens, batch_tokens, learning_rate, warmup, weight_decay)
        self.divergence = validate.choice("recipe.divergence", divergence, tuple(DIVERGENCES))
        self.top = validate.whole("recipe.top", top, 1)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, for the card."""
        own = {name: value for name, value in vars(self).items() if name not in ("data", "schedule")}
        return {**own, **vars(self.schedule), "data": type(self.data).__name__}

    def run(self, job: Job) -> dict[str, Any]:
        job.refuse_recurrent("early exits")
        config = self._exits(job)
        corpus = job.corpus(self.data, self.data_tokens)
        heads = ExitHeads(config)

        def lesson_of(one: Corpus, use: Use = Use.BOTH) -> ExitLesson:
            return ExitLesson(job, one, job.teacher(one, self.top), heads, use)

        lesson = lesson_of(corpus)
        before = {f"{name}_before": value for name, value in lesson.held_out().items()}
        optimiser = Optimiser(
            dict(lesson.heads.named_parameters()),
            self.schedule,
            job.state / "exit_heads",
            job.tracker.curve,
        )
        measure = divergence(self.divergence)

        def batches(number: int) -> Iterable[list[int]]:
            return passes(corpus.samples, lesson.training, self.schedule.batch_tokens, job.seed, number)

        def loss(places: list[int]) -> Loss:
            each = lesson.compared(places)
            value = torch.stack([measure(one).mean() for one in each]).mean()
            alphas = {
                f"alpha_{n}": float(one.alpha.detach().mean()) for n, one in zip(config.layers, each, strict=True)
            }
            return Loss(value, len(each[0].alpha), alphas)

        optimiser.run(batches, loss, lesson.held_out)
        write_exits(job.out, lesson.heads)

        def on_set(one: Corpus) -> dict[str, Any]:
            seen = lesson_of(one, Use.MEASURING)
            return seen.results(seen.named)

        job.measure_sets(on_set)
        measured = {**lesson.results(lesson.named), **before}
        settings = {**self.settings, "layers": list(config.layers)}
        return job.finish("Exit heads of a target", settings, measured, optimiser.log)

    def _exits(self, job: Job) -> ExitConfig:
        """Return the exits. Raises: InputError if the target has no such layers."""
        text = job.target.config.get_text_config()
        depth = text.num_hidden_layers
        layers = self.layers or sorted({max(depth * part // 4, 1) for part in (1, 2, 3)})
        config = ExitConfig(tuple(layers), text.hidden_size)
        config.check("recipe.layers", job.target.config)
        return config


class ExitLesson(Lesson):
    """A lesson for exits. heads: those that learn it."""

    def __init__(self, job: Job, corpus: Corpus, teacher: Teacher, heads: ExitHeads, use: Use = Use.BOTH) -> None:
        super().__init__(job, corpus, teacher, use)
        self.heads = heads
        target: Any = job.target
        depth, last = target.config.get_text_config().num_hidden_layers, heads.config.layers[-1]
        self._body, self._norm = first_layers(target, last, depth), last_norm(target, depth)
        body, name = layers_of(self._body, last)
        self._layers, self._own = body._modules[name], target.get_output_embeddings()

    def compared(self, places: Sequence[int]) -> list[Compared]:
        """Compare each exit with the target on the answers of some sequences, one behind the other."""
        tokens, answer = padded(self.samples(places))
        wanted = answer[:, 1:]
        law, written = self.teacher.laws(places), tokens[:, 1:][wanted]
        with product_mode(self._body):
            states = self._states(tokens[:, :-1], wanted)
            logits = [self.heads.head(place, self._own)(state) for place, state in enumerate(states)]
        return [compare(one, law, written) for one in logits]

    def _states(self, tokens: Int[Tensor, "B T"], wanted: Bool[Tensor, "B T"]) -> list[Float[Tensor, "N W"]]:
        """Return the normed hidden states of the wanted positions at each exit."""
        found: dict[int, Tensor] = {}

        def keep(number: int) -> Any:
            def hook(layer: Any, given: Any, output: Any) -> None:
                found[number] = output[0] if isinstance(output, tuple) else output

            return hook

        exits = self.heads.config.layers
        hooks = [self._layers[number - 1].register_forward_hook(keep(number)) for number in exits]
        try:
            with torch.no_grad():
                hidden_behind(self._body, tokens)
                return [self._norm(found[number][wanted]) for number in exits]
        finally:
            for hook in hooks:
                hook.remove()

    def held_out(self) -> dict[str, float]:
        """Measure the exits on held-out sequences: `alpha_N` and `greedy_N` of the exit behind N layers."""
        return self.measured(self.named)

    def named(self, places: Sequence[int]) -> dict[str, Compared]:
        """Compare the exits on some sequences, by the ending of their names."""
        return {f"_{n}": one for n, one in zip(self.heads.config.layers, self.compared(places), strict=True)}
