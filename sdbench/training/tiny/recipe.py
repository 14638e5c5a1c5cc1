"""Define the recipe of a family: its texts, its tokenizer, and the shape and schedule of each model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from sdbench.errors import InputError
from sdbench.tasks.texts import GENERATORS
from sdbench.validate import Count, Range, Whole, choice, conforms

Rate = Annotated[float, Range(0, bounds="(]")]
Share = Annotated[float, Range(0)]

ROLES = ("target", "qualifier", "draft")


@dataclass(frozen=True)
class ModelRecipe:
    """Shape and schedule of one model.

    batch_tokens: the size of a batch with its padding. learning_rate: the highest rate. The rate rises to it in the warm-up, and
    falls to zero over the last `decay_steps` steps. first_layers: the number of layers at the start, because few layers train
    cheaply. grow_at: the step that adds the other layers on top; they do not change the function at first. late_pool: the number
    of the first pool of texts with the late mixture.
    """

    layers: Count
    first_layers: Count
    grow_at: Whole
    width: Count
    heads: Count
    mlp_width: Count
    steps: Count
    decay_steps: Count
    batch_tokens: Count
    learning_rate: Rate
    late_pool: Whole
    seed: Whole

    def fault(self) -> str | None:
        """Return what its numbers contradict, or None."""
        if self.width % (2 * self.heads):
            return f"width is {self.width}; it must be a multiple of {2 * self.heads}, for {self.heads} heads that rotate pairs"
        if self.first_layers > self.layers:
            return f"first_layers is {self.first_layers}; it must be at most layers, which is {self.layers}"
        if self.layers > self.first_layers and self.grow_at >= self.steps:
            return f"grow_at is {self.grow_at}; it must be below steps, which is {self.steps}"
        return None


@dataclass(frozen=True)
class TrainRecipe:
    """A family of models that share texts and tokenizer.

    mixture: the share of each kind of text at first. It has many sums, which teach arithmetic fast. late_mixture: the shares
    later. pool_texts: the number of texts that are drawn together and sorted by length, so that the rows of a batch have similar
    lengths. packed_every: the share of packed texts is 1 / packed_every. Packed texts follow each other in rows of
    `block_tokens` tokens, which trains long contexts. Each of the other texts has its own row.
    """

    models: Mapping[str, ModelRecipe]
    mixture: Mapping[str, Share]
    late_mixture: Mapping[str, Share]
    seed: Whole
    vocabulary: Annotated[int, Range(258)]
    tokenizer_texts: Count
    positions: Count
    pool_texts: Count
    block_tokens: Count
    packed_every: Count
    warmup_steps: Count
    weight_decay: Share
    log_every: Count
    ladder_texts: Count

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainRecipe":
        """Build a recipe from plain nested mappings, as read from a YAML file. Errors: InputError."""
        values = {name: value for name, value in values.items() if name != "_target_"}
        conforms("recipe", values, cls)
        if set(values["models"]) != set(ROLES):
            raise InputError(
                f"recipe.models has {', '.join(values['models']) or 'no role'}; it must have {', '.join(ROLES)}."
            )
        models = {role: ModelRecipe(**dict(values["models"][role])) for role in ROLES}
        for role, model in models.items():
            if fault := model.fault():
                raise InputError(f"recipe.models.{role}.{fault}.")
        mixtures = {name: dict(values[name]) for name in ("mixture", "late_mixture")}
        for name, mixture in mixtures.items():
            for kind in mixture:
                choice(f"A kind of text in recipe.{name}", kind, GENERATORS)
            if sum(mixture.values()) == 0:
                raise InputError(f"recipe.{name} holds no text: give a kind a share above 0.")
        if values["block_tokens"] > values["positions"]:
            raise InputError(
                f"recipe.block_tokens is {values['block_tokens']}; it must be at most recipe.positions, {values['positions']}."
            )
        return cls(**{**values, "models": models, **mixtures})
