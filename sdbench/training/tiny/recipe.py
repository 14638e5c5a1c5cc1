"""Define the recipe of a family: its texts, its tokenizer, and the shape and schedule of each model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("target", "qualifier", "draft")


@dataclass(frozen=True)
class ModelRecipe:
    """Shape and schedule of one model.

    batch_tokens: the size of a batch with its padding. learning_rate: the highest rate. The rate rises to it in the warm-up, and
    falls to zero over the last `decay_steps` steps. first_layers: the number of layers at the start, because few layers train
    cheaply. grow_at: the step that adds the other layers on top; they do not change the function at first. late_pool: the number
    of the first pool of texts with the late mixture.
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

    mixture: the share of each kind of text at first. It has many sums, which teach arithmetic fast. late_mixture: the shares
    later. pool_texts: the number of texts that are drawn together and sorted by length, so that the rows of a batch have similar
    lengths. packed_every: the share of packed texts is 1 / packed_every. Packed texts follow each other in rows of
    `block_tokens` tokens, which trains long contexts. Each of the other texts has its own row.
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
        """Build a recipe from plain nested mappings, as read from a YAML file."""
        values = {name: value for name, value in values.items() if name != "_target_"}
        models = {role: ModelRecipe(**dict(values["models"][role])) for role in values["models"]}
        mixtures = {name: dict(values[name]) for name in ("mixture", "late_mixture")}
        return cls(**{**dict(values), "models": models, **mixtures})
