"""A family of three small random-weight models with a byte tokenizer, saved as real folders."""

from __future__ import annotations

from pathlib import Path

import torch


def save_family(folder: Path) -> dict[str, Path]:
    """Save target, qualifier and draft under `folder`; the drafts are the target disturbed, so that they agree at times."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=None, eos_token_id=1, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    target = LlamaForCausalLM(config).eval()
    target.get_output_embeddings().weight.data.mul_(20)
    paths = {}
    for role, noise in (("target", 0.0), ("qualifier", 0.02), ("draft", 0.06)):
        model = LlamaForCausalLM(config)
        model.load_state_dict(target.state_dict())
        for weight in model.parameters():
            weight.data += noise * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0
        paths[role] = folder / role
        model.save_pretrained(paths[role])
        tokenizer.save_pretrained(paths[role])
    return paths


def overrides(paths: dict[str, Path], prompts: Path, out: Path) -> list[str]:
    """Overrides that run the family on a JSON-lines file of prompts, quickly."""
    return [
        *(f"models.{role}.path={path}" for role, path in paths.items()),
        "tasks=jsonl", f"tasks.path={prompts}", "limit=4", "max_new_tokens=12", "tracker=none", f"out={out}",
    ]  # fmt: skip
