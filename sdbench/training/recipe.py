"""The recipe of a family: its texts, its tokenizer, and the shape and schedule of each model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("target", "qualifier", "draft")


@dataclass(frozen=True)
class ModelRecipe:
    """Shape and schedule of one model.

    `batch_tokens` is the size of a batch with its padding. The learning rate rises to `learning_rate` in the warm-up,
    stays there, and falls to zero over the last `decay_steps`. Training starts with `first_layers` layers, which is
    cheap, and puts the others on top at step `grow_at`, so that they change nothing at first. From the
    pool of texts with the number `late_pool` on, texts are drawn by the late mixture.
    """

    layers: int
    first_layers: int
    grow_at: int
    width: int
    heads: int
    mlp_width: int
    steps: int
    decay_steps: int
    batch_tokens: int
    learning_rate: float
    late_pool: int
    seed: int


@dataclass(frozen=True)
class TrainRecipe:
    """A family of models that share texts and tokenizer.

    `mixture` gives the share of each kind of text at first: many sums, which teach arithmetic fast; `late_mixture` the
    share later. `pool_texts` texts are drawn at a time and sorted by length, so that
    the rows of a batch are about equally long. One text in `packed_every` goes into blocks of `block_tokens` tokens in
    which texts follow each other, to make long contexts known; the others have rows of their own.
    """

    models: Mapping[str, ModelRecipe]
    mixture: Mapping[str, float]
    late_mixture: Mapping[str, float]
    seed: int
    vocabulary: int
    tokenizer_texts: int
    positions: int
    pool_texts: int
    block_tokens: int
    packed_every: int
    warmup_steps: int
    weight_decay: float
    log_every: int
    ladder_texts: int

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainRecipe":
        """Build a recipe from plain nested mappings, as a YAML file holds them."""
        models = {role: ModelRecipe(**dict(values["models"][role])) for role in values["models"]}
        mixtures = {name: dict(values[name]) for name in ("mixture", "late_mixture")}
        return cls(**{**dict(values), "models": models, **mixtures})


@dataclass(frozen=True)
class Training:
    """What `conf/train.yaml` composes: the recipe, where the trained family goes, and where its checkpoints lie."""

    train: TrainRecipe
    out: str | None = None
    work: str | None = None
