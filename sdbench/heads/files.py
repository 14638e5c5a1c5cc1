"""Read the tensors of a head's checkpoint into a module, and write a head in the format of vllm-project/speculators."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sdbench.errors import InputError
from sdbench.heads.config import HeadConfig
from sdbench.heads.eagle3 import Eagle3

T = TypeVar("T")
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
_UNUSED = ("verifier_lm_head.", "verifier_norm.", "rotary_emb.")  # copies of the target's weights, and what is computed
_MAPS = ("d2t", "t2d")


def named(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of a checkpoint, or what is known of them, under the names of `Eagle3`.

    SafeAILab/EAGLE calls the layer `midlayer`. Copies of the target's weights are left out.
    """
    renamed = {name.removeprefix("model.").replace("midlayer.", "layers.0.", 1): t for name, t in tensors.items()}
    return {name: tensor for name, tensor in renamed.items() if not name.startswith(_UNUSED)}


def fill(module: Eagle3, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy the tensors of a checkpoint into a module. name: of the checkpoint, for messages.

    Raises:
        InputError: a tensor is missing, of another size or not known, or a proposed token is none of the target's.
    """
    given, wanted = named(tensors), module.state_dict()
    if EMBEDDING not in given:
        given[EMBEDDING] = wanted[EMBEDDING]  # the target's
    whole = module.head_config.draft_vocab == module.config.vocab_size
    lacking = sorted(wanted.keys() - given.keys() - (set(_MAPS) if whole else {"t2d"}))
    if lacking:
        raise InputError(f"The head {name} lacks the tensor {lacking[0]}: take a whole EAGLE-3 checkpoint.")
    surplus = sorted(given.keys() - wanted.keys())
    if surplus:
        raise InputError(
            f"The head {name} has the tensor {surplus[0]}, which an EAGLE-3 head with its config.json does not use."
        )
    for part, tensor in given.items():
        if tensor.shape != wanted[part].shape:
            stored, made = (list(one.shape) for one in (tensor, wanted[part]))
            raise InputError(
                f"The head {name} has {part} as {stored}, but its config.json makes it {made}: take both from the same head."
            )
    with torch.no_grad():
        for part, tensor in given.items():
            if wanted[part] is not tensor:
                wanted[part].copy_(tensor)
        ids = module.proposed
        if not bool(((ids >= 0) & (ids < module.config.vocab_size)).all()) or len(ids.unique()) < len(ids):
            raise InputError(f"The head {name} has a d2t that names no different tokens of its target: fetch it again.")
        module.t2d.fill_(False)[ids] = True


def write_head(
    folder: Path, module: Eagle3, config: HeadConfig, target: str = "", layers: tuple[int, ...] = ()
) -> None:
    """Write a head as a folder that sdbench, vLLM and speculators read: model.safetensors and config.json.

    An embedding that is the target's is left out. So are rows of the target's output head, which only sdbench finds again.
    target: the hub id or the name of the target.
    layers: of the target that the head reads; by default those of `config`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    left_out = {EMBEDDING: not module.own_embedding, HEAD: not module.own_head}
    tensors = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items() if not left_out.get(name)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    document = head_document(module.dtype, config, target, layers)
    (folder / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def head_document(dtype: torch.dtype, config: HeadConfig, target: str, layers: tuple[int, ...]) -> dict[str, Any]:
    """Return the config.json of a head, in the format of speculators."""
    read = layers or config.layers
    layer = config.layer.to_diff_dict()
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.1.0",
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}],
            "verifier": {"name_or_path": target, "architectures": []},
        },
        "transformer_layer_config": {**layer, "model_type": config.layer.model_type},
        "draft_vocab_size": config.draft_vocab,
        "target_hidden_size": None if config.target_width == config.layer.hidden_size else config.target_width,
        "norm_before_residual": config.norm_before_residual,
        "eagle_aux_hidden_state_layer_ids": None if read is None else list(read),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
