"""The packaged family opens, is what its card says, and holds the ladder; a family can be trained from end to end."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdbench.errors import InputError
from sdbench.training.recipes.tiny_family import family_tokenizer, train_family
from sdbench.training.tiny.card import model_card
from sdbench.training.tiny.ladder import Ladder
from sdbench.training.tiny.recipe import ROLES, TrainRecipe

ROOT = Path(__file__).parents[3]
TINY = ROOT / "sdbench" / "assets" / "tiny"
MOST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def recipe() -> TrainRecipe:
    return TrainRecipe.from_mapping(yaml.safe_load((ROOT / "conf" / "train" / "tiny.yaml").read_text()))


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    return Ladder(**json.loads((TINY / "ladder.json").read_text()))


@pytest.mark.parametrize("role", ROLES)
def test_packaged_models_open(role: str, recipe: TrainRecipe) -> None:
    model = AutoModelForCausalLM.from_pretrained(TINY / role)
    shape = recipe.models[role]
    assert model.dtype == torch.float32
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (shape.layers, shape.width)
    assert model.config.max_position_embeddings >= 512
    tokenizer = AutoTokenizer.from_pretrained(TINY / role)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    tokens = torch.arange(512)[None]
    assert torch.isfinite(model(tokens).logits).all()


def test_packaged_tokenizer_is_the_recipe_s(recipe: TrainRecipe) -> None:
    wanted = family_tokenizer(recipe)
    text = "Question: Mia has 45 apples.\nAnswer: é {}\n"
    for role in ROLES:
        packaged = AutoTokenizer.from_pretrained(TINY / role)
        assert packaged.get_vocab() == wanted.get_vocab()
        assert packaged.encode(text) == wanted.encode(text)
        assert packaged.decode(packaged.encode(text)) == text


def test_checksums_cover_every_file() -> None:
    lines = [line.split("  ") for line in (TINY / "SHA256SUMS").read_text().splitlines()]
    files = {file.relative_to(TINY).as_posix() for file in TINY.rglob("*") if file.is_file()}
    assert {name for _, name in lines} == files - {"SHA256SUMS"}
    for digest, name in lines:
        assert hashlib.sha256((TINY / name).read_bytes()).hexdigest() == digest
    assert sum((TINY / name).stat().st_size for name in files) <= MOST_BYTES


def test_the_ladder_holds(ladder: Ladder) -> None:
    assert ladder.texts >= 300
    assert ladder.faults() == []


def test_the_card_is_what_was_measured(recipe: TrainRecipe, ladder: Ladder) -> None:
    rows = json.loads((TINY / "training_log.json").read_text())
    logs = {role: [row for row in rows if row["role"] == role] for role in ROLES}
    assert (TINY / "README.md").read_text() == model_card(recipe, ladder, logs)


def test_another_recipe_s_folder_is_refused(micro: TrainRecipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match="holds the training of another recipe"):
        train_family(micro, tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_a_family_is_trained_from_end_to_end(micro: TrainRecipe, tmp_path: Path) -> None:
    recipe = replace(micro, ladder_texts=2)
    ladder = train_family(recipe, tmp_path / "work", tmp_path / "out")
    assert ladder.faults()
    again = train_family(recipe, tmp_path / "work", tmp_path / "out")
    assert replace(again, forward_ms={}) == replace(ladder, forward_ms={})
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {*ROLES, "README.md", "SHA256SUMS", "ladder.json"}
