"""The memory estimate against real models, against published sizes, and against the paper's card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import transformers as t
from omegaconf import OmegaConf

from sdbench.models.memory import RESERVED_BYTES, count, device_memory, fit
from sdbench.models.spec import ModelSpec
from tests.models.folders import ARCHITECTURES, saved, spec

CONF = Path(__file__).parents[2] / "conf" / "models"


def family(name: str, **more) -> dict[str, ModelSpec]:
    conf = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=True)
    assert isinstance(conf, dict)
    return {role: ModelSpec(role=role, **{**fields, **more}) for role, fields in conf.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bytes_of_a_real_model(architecture, tmp_path):
    model = saved(tmp_path, architecture)
    text = [(name, p) for name, p in model.named_parameters() if "vision" not in name and "multi_modal" not in name]
    needed = fit({"target": spec(tmp_path)}, slots=128, batch=3, memory=10**12)
    assert needed.roles[0].weight_bytes == 4 * sum(p.numel() for _, p in text)
    cache = model(
        t.AutoTokenizer.from_pretrained(tmp_path)("how many", return_tensors="pt")["input_ids"]
    ).past_key_values
    kept = sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for layer in cache.layers)
    assert needed.roles[0].cache_bytes == kept * 128 * 3 * 4
    assert needed.devices[0].needed == needed.weight_bytes + needed.roles[0].cache_bytes + RESERVED_BYTES
    assert needed.fits


# Published configs, for the numbers that conf/models states.
PUBLISHED = {
    ("llama3", "target"): t.LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    ),
    ("llama3", "draft"): t.LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
    ),
    ("qwen3", "draft"): t.Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
    ("smollm2", "target"): t.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    ),
    ("gemma3", "qualifier"): t.Gemma3TextConfig(
        vocab_size=262144, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "role"), PUBLISHED)
def test_published_numbers(name, role):
    size, stated = count(PUBLISHED[name, role]), family(name)[role]
    assert (size.parameters, size.cache_values) == (stated.parameters, stated.cache_values)


@pytest.mark.parametrize("card", [24 * 10**9, 24 * 2**30], ids=["24 GB", "24 GiB"])
def test_the_papers_triple_does_not_fit_its_card(card):
    needed = fit(family("llama3"), slots=2048, dtype="bfloat16", device="cuda", memory=card)
    assert needed.weight_bytes / 1e9 == pytest.approx(25.0, abs=0.1)
    assert needed.fits is False
    assert "does not fit" in str(needed.devices[0])
    apart = family("llama3")
    apart["target"] = replace(apart["target"], device="cuda:1")
    spread = fit(apart, slots=2048, dtype="bfloat16", device="cuda:0", memory=card)
    assert spread.fits
    assert len(spread.devices) == 2
    packed = fit(
        family("llama3", quantization="torchao-int8"), slots=2048, dtype="bfloat16", device="cuda", memory=card
    )
    assert packed.fits


def test_what_is_not_known_is_said():
    unknown = fit({"target": ModelSpec("target", "sdbench/nothing")}, slots=1, memory=10**12)
    assert unknown.fits is None
    assert "cannot say whether it fits" in str(unknown.devices[0])
    assert fit(family("smollm2"), slots=1, device="cuda:99").fits is None
    assert fit(family("smollm2"), slots=1, device="cuda:99", memory={"cuda:99": 10**6}).fits is False


def test_this_machine_has_memory():
    assert (device_memory("cpu") or 0) > 10**8
