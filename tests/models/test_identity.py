"""What enters a model's identity: every file that can change a token, and nothing else."""

from __future__ import annotations

import json

import huggingface_hub
import pytest

from sdbench.models.identity import model_identity
from tests.models.folders import saved, spec
from tests.tasks.tokenizers_made import CHAT, byte_level


def identity(folder) -> str:
    return model_identity(spec(folder))


def test_it_follows_the_weights(tmp_path):
    saved(tmp_path / "a")
    saved(tmp_path / "b")
    saved(tmp_path / "c", width=301)
    a, b, c = (identity(tmp_path / name) for name in "abc")
    assert a == b != c
    assert a.startswith("sha256:")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
    ],
)
def test_every_file_that_can_change_a_token_counts(tmp_path, name):
    saved(tmp_path, tokenizer=byte_level(300, template=CHAT))
    before, file = identity(tmp_path), tmp_path / name
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        file.write_text("one")
        added = identity(tmp_path)
        assert added != before
        before = added
    file.write_bytes(file.read_bytes() + b" ")
    assert identity(tmp_path) != before


def test_other_files_do_not_count(tmp_path):
    saved(tmp_path)
    before = identity(tmp_path)
    for name in ("README.md", "LICENSE", "optimizer.pt", "trainer_state.json", ".gitattributes"):
        (tmp_path / name).write_text("anything")
    assert identity(tmp_path) == before


def test_the_place_of_a_folder_does_not_count(tmp_path):
    saved(tmp_path / "a")
    saved(tmp_path / "deeper" / "b")
    assert identity(tmp_path / "a") == identity(tmp_path / "deeper" / "b")


def test_the_files_of_an_index_count_and_others_do_not(tmp_path):
    model = saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    before = identity(tmp_path)
    (tmp_path / "stray.safetensors").write_bytes(b"not listed")
    assert identity(tmp_path) == before
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = tmp_path / sorted(index["weight_map"].values())[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert identity(tmp_path) != before


def test_a_hub_model_is_its_commit(monkeypatch):
    place = "/cache/models--a--b/snapshots/" + "5" * 40 + "/config.json"
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file, revision: place)
    assert model_identity(spec("a/b")) == "a/b@" + "5" * 40
