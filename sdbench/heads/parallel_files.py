"""Read the tensors of a checkpoint into a head that predicts several tokens in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from sdbench.errors import InputError
from sdbench.heads.parallel import EMBEDDING, HEAD, ParallelConfig, ParallelHead

T = TypeVar("T")
_UNUSED = ("rotary_emb.", EMBEDDING, HEAD)  # what is computed, and copies of the target's weights


def parallel_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of a checkpoint, or what is known of them, under the names of the module."""
    renamed = {name.removeprefix("medusa_head.").removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in renamed.items() if not name.startswith(_UNUSED)}


def as_stored(config: ParallelConfig, tensors: Mapping[str, object]) -> ParallelConfig:
    """Return the config with the number of heads that a published Medusa checkpoint has: its config.json says too few."""
    stored = {int(first) for first in (name.partition(".")[0] for name in tensors) if first.isdigit()}
    if config.kind != "medusa" or config.layers is not None or not stored:
        return config
    return replace(config, depth=max(stored) + 1)


def fill_parallel(module: ParallelHead, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy the tensors of a checkpoint into a module. name: of the checkpoint, for messages.

    Raises:
        InputError: a tensor is missing, of another size or not known, or a proposed token is none of the target's.
    """
    wanted, vocab = module.state_dict(), module.config.vocab_size
    optional = {"d2t"} if module.head_config.draft_vocab == vocab else set()
    lacking, surplus = sorted(wanted.keys() - tensors.keys() - optional), sorted(tensors.keys() - wanted.keys())
    if lacking or surplus:
        what = f"lacks the tensor {lacking[0]}" if lacking else f"has the tensor {surplus[0]}, which nothing uses"
        raise InputError(f"The head {name} {what}: take a whole {module.kind} checkpoint with its own config.json.")
    for part, tensor in tensors.items():
        if tensor.shape != wanted[part].shape:
            stored, made = (list(one.shape) for one in (tensor, wanted[part]))
            raise InputError(
                f"The head {name} has {part} as {stored}, but its config.json makes it {made}: take both from the same head."
            )
    with torch.no_grad():
        for part, tensor in tensors.items():
            wanted[part].copy_(tensor)
    ids = module.proposed
    if not bool(((ids >= 0) & (ids < vocab)).all()) or len(ids.unique()) < len(ids):
        raise InputError(f"The head {name} has a d2t that names no different tokens of its target: fetch it again.")
