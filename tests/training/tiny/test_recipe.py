"""The knobs of the tiny family's recipe: each value that cannot be trained is refused in a sentence."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdbench.errors import InputError
from sdbench.training.tiny.recipe import TrainRecipe

VALUES = yaml.safe_load((Path(__file__).parents[3] / "conf" / "train" / "tiny.yaml").read_text())

CASES: dict[str, tuple[str, Any, str]] = {
    "heads": ("models.target.heads", 7, r"recipe\.models\.target\.width is 192; it must be a multiple of 14"),
    "layers": ("models.draft.first_layers", 2, r"recipe\.models\.draft\.first_layers is 2; it must be at most layers"),
    "never grown": ("models.target.grow_at", 9000, r"grow_at is 9000; it must be below steps, which is 8400"),
    "no steps": (
        "models.target.steps",
        0,
        r"recipe\.models\.target\.steps is 0; it must be a whole number of at least 1",
    ),
    "a word": ("models.draft.learning_rate", "fast", r"recipe\.models\.draft\.learning_rate is 'fast'"),
    "unknown key": ("models.draft.depth", 3, r"has no 'depth'"),
    "negative share": ("mixture.sums", -0.5, r"recipe\.mixture\.sums is -0\.5"),
    "another text": ("mixture.poems", 0.5, r"A kind of text in recipe\.mixture is 'poems'; it must be one of"),
    "long rows": ("block_tokens", 4096, r"recipe\.block_tokens is 4096; it must be at most recipe\.positions, 1024"),
    "few tokens": ("vocabulary", 64, r"recipe\.vocabulary is 64; it must be a whole number of at least 258"),
    "another role": ("models.judge", VALUES["models"]["draft"], r"it must have target, qualifier, draft"),
    "no text": ("late_mixture", {"sums": 0}, r"recipe\.late_mixture holds no text"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_trained_is_refused(name: str) -> None:
    place, value, said = CASES[name]
    values = deepcopy(VALUES)
    *above, key = place.split(".")
    part = values
    for word in above:
        part = part[word]
    part[key] = value
    with pytest.raises(InputError, match=said):
        TrainRecipe.from_mapping(values)


def test_the_packaged_recipe_is_read() -> None:
    recipe = TrainRecipe.from_mapping(VALUES)
    assert recipe.models["target"].layers == 8
