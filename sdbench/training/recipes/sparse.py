"""Train a sparse draft (SD^2, 2504.08838): the target, or layers of it, pruned in one shot and then distilled with its zeros kept.

The paper prunes a model of the target's family without structure, in the way of SparseGPT, and tunes it on answers that the target
wrote (self-data distillation). Here the model is the target itself or some of its layers, because a draft borrows the target's
embedding and head. The losses are those of `distill`; `divergence=ce` learns from the target's tokens alone.

No sparse kernel runs here. Acceptance and the counted operations are those of the sparse draft. Its time is that of a dense one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdbench import validate
from sdbench.training.corpus import Corpus
from sdbench.training.job import Job
from sdbench.training.pruning import Pruning, decoder_layers, linear_layers, macs_per_token, prune, sparsity
from sdbench.training.recipes.distill import Distill
from sdbench.training.student import Student

TIME = "No sparse kernel runs here: acceptance and operations are those of the sparse draft, its time is that of a dense draft."


class SparseDistill(Distill):
    """Prune layers of the target, and distil the target into them with the zeros kept.

    layers: numbers of the target's layers, or how many of the first ones; None: all. prune, pattern, sparsity, block, damping: see
    `sdbench.training.pruning.Pruning`; sparsity is its `share`. calibration: training sequences that the pruning reads.
    calibration_tokens: the longest of them is cut to so many tokens. distill: the arguments of `distill`.
    """

    title = "A sparse draft distilled from its target"

    def __init__(
        self,
        layers: Sequence[int] | int | None = None,
        prune: str = "sparsegpt",
        pattern: str = "unstructured",
        sparsity: float = 0.5,
        block: int = 128,
        damping: float = 0.01,
        calibration: int = 128,
        calibration_tokens: int = 512,
        **distill: Any,
    ) -> None:
        if isinstance(layers, int):
            layers = range(validate.whole("recipe.layers", layers, 1))
        super().__init__(layers or (), **distill)
        self.pruning = Pruning(prune, pattern, sparsity, block, damping)
        self.calibration = validate.whole("recipe.calibration", calibration, 1)
        self.calibration_tokens = validate.whole("recipe.calibration_tokens", calibration_tokens, 2)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, for the card."""
        own = super().settings
        pruning = dict(vars(own.pop("pruning")))  # `share` is the name of a setting of `distill` too
        pruning |= {"prune": pruning.pop("method"), "sparsity": pruning.pop("share")}
        return own | pruning

    def check(self, job: Job) -> None:
        self.layers = self.layers or list(range(job.family.main.config.num_hidden_layers))
        super().check(job)

    def student(self, job: Job, corpus: Corpus) -> Student:
        """Return the pruned draft. A training that goes on takes the one that it began with."""
        student = super().student(job, corpus)
        file = job.state / "pruned.safetensors"
        if file.exists():
            student.load(load_file(file))
            return student
        training, _ = job.split(corpus)
        chosen = [corpus.samples[place].tokens[: self.calibration_tokens] for place in training[: self.calibration]]
        prune(student.model, self.pruning, [torch.tensor(tokens) for tokens in chosen])
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.detach().contiguous() for name, weight in student.weights.items()}, file)
        return student

    def held(self, student: Student) -> Callable[[], None]:
        """Keep the zeros of a draft. Gradients are masked too, so that no moment of the optimiser comes from a dropped weight."""
        kept = [
            (part.weight, part.weight.detach() != 0) for part in linear_layers(decoder_layers(student.model)).values()
        ]
        for weight, mask in kept:
            weight.register_hook(_masked(mask))

        @torch.no_grad()
        def put_back() -> None:
            for weight, mask in kept:
                weight.mul_(mask)

        return put_back

    def facts(self, job: Job, student: Student) -> dict[str, Any]:
        """Return the zeros of each layer, and the operations of a token: of the target, of the dense draft, of the sparse one."""
        by_layer = dict(zip(self.layers, map(sparsity, decoder_layers(student.model)), strict=True))
        dense = macs_per_token(student.model, student.head_weights)
        sparse = macs_per_token(student.model, student.head_weights, sparse=True)
        head: Any = job.target.get_output_embeddings()
        return {
            "sparsity_by_layer": {f"layer {layer}": round(share, 4) for layer, share in by_layer.items()},
            "multiply_accumulates_per_token": {
                "target": macs_per_token(job.target, head.weight.numel()),
                "dense_draft": dense,
                "sparse_draft": sparse,
                "saved": round(1 - sparse / dense, 4),
                "counted": "linear layers and head, from their shapes; attention over earlier tokens is left out",
            },
            "time": TIME,
        }


def _masked(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * mask
