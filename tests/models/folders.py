"""Model folders as they lie on a disk: small random weights with a small tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as t

from sdbench.models.spec import ModelSpec
from tests.tasks.tokenizers_made import byte_level

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def config_of(architecture: str, width: int = 300) -> t.PreTrainedConfig:
    """The config of a small model with so many embedding entries."""
    small = {**SMALL, "vocab_size": width}
    match architecture:
        case "llama":
            return t.LlamaConfig(**small)
        case "qwen3":
            return t.Qwen3Config(**small, head_dim=8)
        case "gemma3":
            return t.Gemma3TextConfig(**small, head_dim=8, sliding_window=8)
        case "gemma3-with-images":
            return t.Gemma3Config(text_config={**small, "head_dim": 8, "sliding_window": 8}, vision_config=VISION)
        case "gemma4-with-images":
            text = {**small, "pad_token_id": 0, "head_dim": 8, "global_head_dim": 8, "num_kv_shared_layers": 0}
            text |= {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
            text |= {"vocab_size_per_layer_input": width, "hidden_size_per_layer_input": 8}
            seen = {key: value for key, value in VISION.items() if key != "image_size"}
            seen |= {"num_key_value_heads": 2, "head_dim": 8}
            return t.Gemma4Config(text_config=text, vision_config=seen, audio_config=None)
        case "qwen3_5-with-images":
            text = {**small, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
            text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4}
            text |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
            seen = {"depth": 1, "num_heads": 2, "hidden_size": 16, "intermediate_size": 32, "patch_size": 14}
            seen |= {"num_position_embeddings": 16, "out_hidden_size": 32}
            return t.Qwen3_5Config(text_config=text, vision_config=seen)
        case "mistral":
            return t.MistralConfig(**small, sliding_window=8)
        case "gpt2":
            return t.GPT2Config(
                vocab_size=width, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
            )
    raise ValueError(architecture)


ARCHITECTURES = ["llama", "qwen3", "gemma3", "gemma3-with-images", "mistral", "gpt2"]


def saved(
    folder: Path, architecture: str = "llama", width: int = 300, tokenizer=None, auto=t.AutoModelForCausalLM
) -> t.PreTrainedModel:
    """Write a model's folder; returns the model. auto: chooses the class that is written."""
    torch.manual_seed(0)
    model = auto.from_config(config_of(architecture, width)).eval()
    model.save_pretrained(folder)
    (tokenizer or byte_level(300)).save_pretrained(folder)
    return model


def spec(folder: Path | str, role: str = "target", **more) -> ModelSpec:
    """The spec of a role whose model lies there."""
    return ModelSpec(role=role, path=str(folder), **more)
