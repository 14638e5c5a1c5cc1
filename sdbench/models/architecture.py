"""Which architectures can be stepped over cache slots, as far as their configs tell.

A step gives a model positions and a mask of its own, and rolls back by overwriting slots. Full and sliding-window attention allow
that. A recurrent state does not, because it cannot be rolled back. An encoder-decoder does not, and neither does a model that
derives positions or distances from the shape of the mask. `sdbench.lm.probe` tries the loaded model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.models.skeleton import FULL as FULL, SLIDING as SLIDING, causal_lm_class, tried

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def check_architecture(role: str, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the model class that a config needs. Errors: InputError if the model cannot be stepped over slots."""
    text = config.get_text_config()
    names = getattr(config, "architectures", None)
    name = names[0] if names else config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{role}: {name} is an encoder-decoder; only decoder-only language models can be run.")
    model_class = causal_lm_class(config)
    if model_class is None:
        raise InputError(f"{role}: {name} is not a causal language model that transformers knows.")
    reason = _unsuited(text, model_class)
    if reason:
        raise InputError(f"{role}: {model_class.__name__} {reason}.")
    try:
        failure = tried(config).failure
    except InputError as error:
        raise InputError(f"{role}: {error}") from error
    if failure:
        raise InputError(f"{role}: {model_class.__name__} cannot be called over a cache of slots ({failure}).")
    return model_class


def longest_sequence(config: PreTrainedConfig) -> tuple[int | None, str]:
    """The longest sequence that a text model reads as its own `generate` would, in tokens, and the reason for it.

    A long-rope model turns all of its rotations to other factors as soon as one position of a forward lies past the border. Tokens
    that were read before would have to be read anew, and in a batch a long row would change the short ones. So the border is the
    limit. None: the config sets no limit. The reason is "" where it is the config's longest position.
    """
    longest = getattr(config, "max_position_embeddings", None)
    borders = [border for rope in _ropes(config) if (border := rope.get("original_max_position_embeddings"))]
    if borders and (longest is None or min(borders) < longest):
        border = min(borders)
        return border, (
            f"its long-rope positions change for all tokens past {border}, where its own generate would read the prompt anew"
        )
    return longest, ""


def _ropes(config: PreTrainedConfig) -> Iterator[Mapping[str, Any]]:
    """The parameters of the long-rope embeddings of a model, which may differ between kinds of layers."""
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given] if "rope_type" in given else [part for part in given.values() if isinstance(part, Mapping)]
    outer = getattr(config, "original_max_position_embeddings", None)
    for part in kinds:
        if part.get("rope_type") == "longrope":
            yield {"original_max_position_embeddings": outer, **part}


def _unsuited(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> str | None:
    """Why a model cannot be stepped over slots, or None."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if not isinstance(getattr(config, "num_hidden_layers", None), int):
        return "has no single stack of decoder layers (its config has no num_hidden_layers)"
    if getattr(model_class, "_is_stateful", False):
        return "has recurrent layers, whose state cannot be rolled back"
    if kinds - {FULL, SLIDING}:
        return (
            f"has layers of kind {', '.join(sorted(kinds - {FULL, SLIDING}))}; only full and sliding-window ones work"
        )
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "uses ALiBi, which takes distances from the order of the slots and not from the positions"
    if "position_ids" not in inspect.signature(model_class.forward).parameters:
        return "takes no position_ids, so its tokens cannot be placed"
    if getattr(config, "use_bidirectional_attention", False):
        return "attends in both directions, so it cannot decode"
    if not model_class._supports_sdpa:
        return "has no sdpa attention, the only kind that takes the masks needed"
    return None
