"""Small random-weight models with recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

from tests.conftest import V

ARCHITECTURES = ["qwen3_5", "lfm2", "nemotron_h", "falcon_h1", "qwen3_next", "bamba", "olmo_hybrid", "zamba2", "mamba2"]


def recurrent_model(architecture: str, layers: int = 4, seed: int = 0, width: int = V, **more: Any) -> Any:
    """Return a model in float32. width: its vocabulary. more: of its config."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "vocab_size": width, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "initializer_range": 0.1, **more,
    }  # fmt: skip
    delta: dict[str, Any] = {
        "layer_types": ["linear_attention", "full_attention"] * (layers // 2), "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
    }  # fmt: skip
    mamba: dict[str, Any] = {
        "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_conv": 4,
        "mamba_expand": 2, "mamba_chunk_size": 8,
    }  # fmt: skip
    configs: dict[str, Callable[[], Any]] = {
        "qwen3_5": lambda: t.Qwen3_5TextConfig(**small, head_dim=16, **delta),
        "qwen3_next": lambda: t.Qwen3NextConfig(
            **small, head_dim=16, **delta, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
            shared_expert_intermediate_size=32,
        ),
        "olmo_hybrid": lambda: t.OlmoHybridConfig(**small, **delta),
        "lfm2": lambda: t.Lfm2Config(**small, layer_types=["conv", "full_attention"] * (layers // 2), conv_L_cache=3),
        "nemotron_h": lambda: t.NemotronHConfig(
            **small, layers_block_type=["mamba", "attention", "mlp", "mamba"][:layers], mamba_num_heads=8,
            mamba_head_dim=16, ssm_state_size=8, n_groups=1, conv_kernel=4, chunk_size=8, head_dim=16,
        ),
        "falcon_h1": lambda: t.FalconH1Config(**small, head_dim=16, mamba_d_ssm=128, **mamba),
        "bamba": lambda: t.BambaConfig(**small, attn_layer_indices=[1], **mamba),
        "jamba": lambda: t.JambaConfig(
            **small, num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8,
            mamba_d_conv=4, mamba_dt_rank=8, use_mamba_kernels=False,
        ),
        "mamba2": lambda: t.Mamba2Config(
            **small, num_heads=8, head_dim=16, state_size=8, n_groups=1, conv_kernel=4, expand=2, chunk_size=8
        ),
        "mamba": lambda: t.MambaConfig(**small, state_size=8, conv_kernel=4, expand=2),
        "falcon_mamba": lambda: t.FalconMambaConfig(**small, state_size=8, conv_kernel=4, expand=2),
        "zamba2": lambda: t.Zamba2Config(
            **small, layers_block_type=["mamba", "hybrid"] * (layers // 2), mamba_d_state=8, mamba_expand=2,
            mamba_ngroups=1, n_mamba_heads=8, chunk_size=8, attention_head_dim=32,
        ),
    }  # fmt: skip
    model = t.AutoModelForCausalLM.from_config(configs[architecture]()).eval().requires_grad_(False)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.data * 4, requires_grad=False)  # clear greedy choices
    model.generation_config.eos_token_id = None
    return model
