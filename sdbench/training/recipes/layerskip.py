"""Continue the training of the target so that its first layers draft well (LayerSkip, 2404.16710).

This changes the target: the result is another model, with a baseline of its own. The arm `early_exit` drafts with it.

Layer dropout leaves out layer l of L for a sequence with the probability S(t) D(l) p_max, where

    D(l) = exp(l ln 2 / (L - 1)) - 1,    S(t) = 1, or exp(t ln 2 / (T - 1)) - 1 for a training from scratch.

The early-exit loss is the cross-entropy of the target's own norm and head behind each layer l that the curriculum enables, with a
weight in proportion to

    e(l) = e_scale (0 + 1 + ... + l) for l < L - 1,    e(L - 1) = L - 1 + e_scale (0 + 1 + ... + L - 2).

The weights of the enabled layers sum to 1. The last layer is always enabled. The rotational curriculum enables every R-th layer,
and moves on by one layer in each step. The gradual one enables one more layer every T / (2 L) steps, from the last one down. Here
t / T is the share of the budget that is done.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from sdbench import validate
from sdbench.lm.early_exit import last_norm, layers_of
from sdbench.training.batches import padded, passes
from sdbench.training.corpus import Corpus
from sdbench.training.job import Job
from sdbench.training.lesson import WATCHED
from sdbench.training.network_calls import hidden_behind, product_mode
from sdbench.training.optimise import Loss, Optimiser, Schedule
from sdbench.training.sources.base import Source

DROPOUT_CURRICULA = ("constant", "exponential")
EXIT_CURRICULA = ("rotational", "gradual", "all")


class LayerSkip:
    """Continue the training of the target with layer dropout and an early-exit loss.

    data: the source of the sequences. data_tokens: answer tokens to collect. tokens, batch_tokens, learning_rate, warmup,
    weight_decay: see `sdbench.training.optimise.Schedule`.
    dropout: p_max, the probability that the last layer is left out. dropout_curriculum: S(t), constant or exponential.
    exit_scale: e_scale. exit_curriculum: rotational, gradual, or all layers in every step. rotation: R.
    The defaults of these are those of the paper's continued training of Llama 2 7B.
    """

    def __init__(
        self,
        data: Source,
        data_tokens: int = 1_000_000,
        tokens: int = 2_000_000,
        batch_tokens: int = 2048,
        learning_rate: float = 3e-5,
        warmup: float = 0.05,
        weight_decay: float = 0.01,
        dropout: float = 0.1,
        dropout_curriculum: str = "constant",
        exit_scale: float = 0.2,
        exit_curriculum: str = "rotational",
        rotation: int = 8,
    ) -> None:
        self.data, self.data_tokens = data, validate.whole("recipe.data_tokens", data_tokens, 1)
        tokens = validate.whole("recipe.tokens", tokens, 1)
        self.schedule = Schedule(tokens, batch_tokens, learning_rate, warmup, weight_decay)
        self.dropout = validate.number("recipe.dropout", dropout, 0, 1, "[)")
        self.dropout_curriculum = validate.choice("recipe.dropout_curriculum", dropout_curriculum, DROPOUT_CURRICULA)
        self.exit_scale = validate.number("recipe.exit_scale", exit_scale, 0, 1)
        self.exit_curriculum = validate.choice("recipe.exit_curriculum", exit_curriculum, EXIT_CURRICULA)
        self.rotation = validate.whole("recipe.rotation", rotation, 1)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, for the card."""
        own = {name: value for name, value in vars(self).items() if name not in ("data", "schedule")}
        return {**own, **vars(self.schedule), "data": type(self.data).__name__}

    def run(self, job: Job) -> dict[str, Any]:
        job.refuse_recurrent("early exits")
        corpus = job.corpus(self.data, self.data_tokens)
        model = SkippedLayers(job.target)
        watched = job.split(corpus)[1][:WATCHED]
        before = {f"{name}_before": value for name, value in model.held_out(corpus, watched).items()}
        optimiser = Optimiser(model.weights, self.schedule, job.state / "layerskip", job.tracker.curve)
        training = job.split(corpus)[0]

        def batches(number: int) -> Iterable[list[int]]:
            return passes(corpus.samples, training, self.schedule.batch_tokens, job.seed, number)

        def loss(places: list[int]) -> Loss:
            tokens, answer = padded([corpus.samples[place] for place in places])
            wanted, written = answer[:, 1:], tokens[:, 1:][answer[:, 1:]]
            weights = self.exit_weights(model.depth, optimiser.steps, optimiser.done)
            left_out = self.left_out(model.depth, len(tokens), optimiser.done, job.seed, optimiser.steps)
            each = model.exits(tokens[:, :-1], wanted, list(weights), left_out)
            losses = {layer: cross_entropy(logits.float(), written) for layer, logits in each.items()}
            value = torch.stack([weight * losses[layer] for layer, weight in weights.items()]).sum()
            return Loss(value, len(written), {"last_layer": float(losses[model.depth - 1].detach())})

        optimiser.run(batches, loss, lambda: model.held_out(corpus, watched))
        model.write(job)
        measured = {**model.held_out(corpus, watched), **before}
        return job.finish("A target trained for early exit", self.settings, measured, optimiser.log)

    def exit_weights(self, depth: int, step: int, done: float) -> dict[int, float]:
        """Return the weight of the loss behind each enabled layer, by the layer's number from 0. done: the share of the budget."""
        last = depth - 1
        if self.exit_curriculum == "rotational":
            enabled = [layer for layer in range(last) if (layer - step) % self.rotation == 0]
        elif self.exit_curriculum == "gradual":
            enabled = [layer for layer in range(last) if last - layer <= 2 * depth * done]
        else:
            enabled = list(range(last))
        scales = {layer: self.exit_scale * layer * (layer + 1) / 2 for layer in enabled}
        scales[last] = last + self.exit_scale * (last - 1) * last / 2
        total = sum(scales.values())
        return {layer: scale / total for layer, scale in scales.items() if scale > 0}

    def left_out(self, depth: int, rows: int, done: float, seed: int, step: int) -> Tensor:
        """Draw which layers each sequence leaves out: [L, B] boolean. The draw depends on the seed and the step only."""
        most = self.dropout * (1.0 if self.dropout_curriculum == "constant" else 2.0 ** min(done, 1.0) - 1)
        chance = [most * (2 ** (layer / max(depth - 1, 1)) - 1) for layer in range(depth)]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return torch.rand(depth, rows, generator=generator) < torch.tensor(chance)[:, None]


class SkippedLayers:
    """A copy of a target whose layers can be left out, and whose norm and head can follow every layer."""

    def __init__(self, target: Any) -> None:
        self.model: Any = copy.deepcopy(target).float().requires_grad_(True)
        self._dtype, self.depth = target.dtype, target.config.get_text_config().num_hidden_layers
        body, name = layers_of(self.model, self.depth)
        self._layers, self._norm = body._modules[name], last_norm(self.model, self.depth)

    @property
    def weights(self) -> dict[str, Any]:
        """Return all weights, by name. A head that shares the embedding has no weight of its own."""
        return dict(self.model.named_parameters())

    def exits(
        self, tokens: Int[Tensor, "B T"], wanted: Tensor, layers: Sequence[int], left_out: Tensor | None = None
    ) -> dict[int, Float[Tensor, "N V"]]:
        """Return the logits of the wanted positions behind some layers. left_out: [L, B], the layers that a sequence leaves out."""
        with product_mode(self.model), self._watched(layers, left_out) as states:
            hidden_behind(self.model, tokens)
            head = self.model.get_output_embeddings()
            return {layer: head(self._norm(states[layer][wanted])) for layer in layers}

    @contextmanager
    def _watched(self, layers: Sequence[int], left_out: Tensor | None) -> Iterator[dict[int, Tensor]]:
        """Leave layers out, and keep the states behind some of them."""
        states: dict[int, Tensor] = {}

        def behind(number: int) -> Any:
            def hook(layer: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
                before = given[0] if given else named["hidden_states"]
                out = output[0] if isinstance(output, tuple) else output
                if left_out is not None and bool(left_out[number].any()):
                    out = torch.where(left_out[number][:, None, None], before, out)
                if number in layers:
                    states[number] = out
                return (out, *output[1:]) if isinstance(output, tuple) else out

            return hook

        hooks = [
            layer.register_forward_hook(behind(number), with_kwargs=True) for number, layer in enumerate(self._layers)
        ]
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def held_out(self, corpus: Corpus, places: Sequence[int]) -> Mapping[str, float]:
        """Measure the model on held-out sequences.

        Returns `loss`, the cross-entropy of the whole model in nats per token. Also returns `greedy_N` for some exits: the share of
        positions at which the exit behind N layers and the whole model have the same most likely token.
        """
        exits = sorted({max(self.depth * part // 4, 1) for part in (1, 2, 3)} - {self.depth})
        losses, same = [], {number: [] for number in exits}
        for first in range(0, len(places), 4):
            tokens, answer = padded([corpus.samples[place] for place in places[first : first + 4]])
            wanted = answer[:, 1:]
            each = self.exits(tokens[:, :-1], wanted, [*(number - 1 for number in exits), self.depth - 1])
            whole = each[self.depth - 1].float()
            losses.append(cross_entropy(whole, tokens[:, 1:][wanted], reduction="none"))
            for number in exits:
                same[number].append((each[number - 1].argmax(-1) == whole.argmax(-1)).float())
        return {
            "loss": float(torch.cat(losses).mean()),
            **{f"greedy_{number}": float(torch.cat(found).mean()) for number, found in same.items()},
        }

    def write(self, job: Job) -> None:
        """Write the model as a folder that `models.target.path` can name."""
        job.out.mkdir(parents=True, exist_ok=True)
        stored = copy.deepcopy(self.model).to(self._dtype)
        stored.save_pretrained(job.out)
        job.tokenizer.save_pretrained(job.out)
        for file in job.out.glob("*.safetensors"):
            file.chmod(0o644)
