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
    """A small random-weight model of an architecture, in float32, with the attention that the loader chooses."""
    import transformers as t

    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "attn_implementation": "sdpa", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    mixed = ["sliding_attention", "full_attention"] * (layers // 2)
    local: dict[str, Any] = {**small, "head_dim": 16, "sliding_window": 8, "layer_types": mixed}
    eager: dict[str, Any] = {**local, "attn_implementation": "eager"}  # scores that are capped, or have sinks
    # The last layers take keys and values from earlier ones, and each layer has an embedding of its own.
    shared = {
        "num_kv_shared_layers": layers // 4 * 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": V,
    }
    indexed = {
        **small, "num_key_value_heads": 4, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 1, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 16, "index_topk": 6, "index_head_dim": 16,
        "index_n_heads": 16,  # with few, whole scores are zero, and the choice among them is open
    }  # fmt: skip
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
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**eager, query_pre_attn_scalar=16)),
        "gpt_oss": lambda: t.GptOssForCausalLM(
            t.GptOssConfig(
                **eager, num_local_experts=4, num_experts_per_tok=2, rope_parameters={"rope_type": "default"}
            )
        ),
        "llama4": lambda: t.Llama4ForCausalLM(
            t.Llama4TextConfig(
                **small,
                head_dim=16,
                attention_chunk_size=8,
                no_rope_layers=[1, 0] * (layers // 2),
                num_local_experts=2,
                num_experts_per_tok=1,
                intermediate_size_mlp=96,
                interleave_moe_layer_step=2,
            )
        ),
        "gemma3n": lambda: t.Gemma3nForCausalLM(
            t.Gemma3nTextConfig(
                **local, **shared, laurel_rank=4, altup_num_inputs=2, activation_sparsity_pattern=[0.5] * layers
            )
        ),
        "deepseek_v32": lambda: t.DeepseekV32ForCausalLM(t.DeepseekV32Config(**indexed, first_k_dense_replace=1)),
        "glm_moe_dsa": lambda: t.GlmMoeDsaForCausalLM(  # layers that see what the indexer of an earlier layer chose
            t.GlmMoeDsaConfig(
                **indexed,
                mlp_layer_types=["dense", *["sparse"] * (layers - 1)],
                indexer_types=["full", "shared"] * (layers // 2),
            )
        ),
        "gemma4": lambda: t.Gemma4ForCausalLM(t.Gemma4TextConfig(**local, **shared, global_head_dim=16)),
    }
    model = build[architecture]().eval().requires_grad_(False)
    # Untrained logits nearly tie; spread them, so that greedy choices are clear.
    model.get_output_embeddings().weight.data.mul_(12)
    return model


ARCHITECTURES = ["llama", "qwen3", "qwen3-sliding", "mistral", "gemma3", "phi3", "gpt2"]
OTHER_ATTENTION = [
    "gemma2",
    "gpt_oss",
    "llama4",
    "gemma3n",
    "gemma4",
    "deepseek_v32",
    "glm_moe_dsa",
]  # capped scores, sinks, chunks, shared keys and values, an indexer
