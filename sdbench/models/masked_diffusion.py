"""Recognise a masked diffusion language model (LLaDA, 2502.09992) by its config.

Such a model predicts every masked position of a text at once, and attends in both directions. Its config.json belongs to a causal
architecture of transformers, and says `is_causal: false` and `mask_token_id`. With the first, transformers' own forward attends in
both directions too. The published weights of LLaDA and Dream bring Python code of their own, which sdbench does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdbench.errors import InputError
from sdbench.models.skeleton import FULL

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def mask_token_of(role: str, config: PreTrainedConfig) -> int | None:
    """Return the mask token of a masked diffusion model; None for an autoregressive one.

    role: for messages. config: of the text model. Errors: InputError if the config of a diffusion model is incomplete.
    """
    if getattr(config, "is_causal", True):
        return None
    token, width = getattr(config, "mask_token_id", None), config.vocab_size
    if not isinstance(token, int) or not 0 <= token < width:
        raise InputError(
            f"The config.json of {role} says is_causal=false, so its mask_token_id must be a token from 0 to {width - 1}; it is "
            f"{token}."
        )
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {FULL} or (not kinds and getattr(config, "sliding_window", None)):
        raise InputError(f"{role} is a masked diffusion model with sliding-window layers; only full attention works.")
    return token
