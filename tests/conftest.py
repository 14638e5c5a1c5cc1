"""What the tests share: one thread, no network, small random models of many architectures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch

from tests import shapes
from tests.skips import pytest_addoption as pytest_addoption, pytest_sessionfinish as pytest_sessionfinish

shapes.install()

CORE = {"acceptance", "decoding", "drafting", "exactness", "test_sampling.py", "test_keyed_random.py"}  # below tests/


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import the core's files only, if `-m core` asks for nothing else: the others take some seconds."""
    root = Path(__file__).parent
    if config.option.markexpr != "core" or not collection_path.is_relative_to(root) or collection_path == root:
        return None
    return True if collection_path.relative_to(root).parts[0] not in CORE else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the fast tests of the core, which `pytest -m core` runs."""
    root = Path(__file__).parent
    for item in items:
        if item.get_closest_marker("slow"):
            continue
        if item.path.is_relative_to(root) and item.path.relative_to(root).parts[0] in CORE:
            item.add_marker(pytest.mark.core)


def pytest_runtest_setup() -> None:
    shapes.begin_test()


V = 97


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


def random_model(architecture: str, layers: int = 4, seed: int = 0):
    """A small random-weight model of an architecture, in float32 under sdpa."""
    import transformers as t

    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "attn_implementation": "sdpa", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    mixed = ["sliding_attention", "full_attention"] * (layers // 2)
    build = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**small)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**small, head_dim=16)),
        "qwen3-sliding": lambda: t.Qwen3ForCausalLM(
            t.Qwen3Config(**small, head_dim=16, use_sliding_window=True, sliding_window=8, layer_types=mixed)
        ),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**small, sliding_window=8)),
        "gemma3": lambda: t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(**small, head_dim=16, sliding_window=8, layer_types=mixed)
        ),
        "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**small)),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=V,
                n_positions=256,
                n_embd=64,
                n_layer=layers,
                n_head=4,
                attn_implementation="sdpa",
                bos_token_id=None,
                eos_token_id=None,
            )
        ),
    }
    model = build[architecture]().eval().requires_grad_(False)
    # Untrained logits nearly tie; spread them, so that greedy choices are clear.
    model.get_output_embeddings().weight.data.mul_(12)
    return model


ARCHITECTURES = ["llama", "qwen3", "qwen3-sliding", "mistral", "gemma3", "phi3", "gpt2"]
