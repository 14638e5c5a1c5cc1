"""Check from its config whether an architecture can run on cache slots.

A step passes explicit positions and an explicit mask to the model. A rollback overwrites slots. Full, sliding-window and chunked
attention support both. A recurrent state is kept from step to step instead
(`sdbench.lm.recurrent`). Encoder-decoders are not supported. A model that derives
positions or distances from the shape of the mask is not supported either. `sdbench.lm.probe` tests the loaded model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.models.skeleton import KINDS, attention_kinds, causal_lm_class, is_recurrent, tried

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def check_architecture(role: str, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the model class of a config. role: for messages. Errors: InputError if the model cannot run on cache slots."""
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
    """Return the longest sequence, in tokens, for which a text model agrees with its own `generate`, and the reason.

    A long-rope model has a border, its original longest position. If one position of a forward is past the border, the model uses
    other rotation factors for all positions. The cached keys would then be wrong, and a long row would change the short rows of its
    batch. So the border is the limit. The length is None if the config sets no limit. The reason is "" if the limit is the config's
    longest position.
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
    """Yield the parameters of each long-rope embedding of a model. Different kinds of layers may have different ones."""
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [given] if "rope_type" in given else [part for part in given.values() if isinstance(part, Mapping)]
    outer = getattr(config, "original_max_position_embeddings", None)
    for part in kinds:
        if part.get("rope_type") == "longrope":
            yield {"original_max_position_embeddings": outer, **part}


def _unsuited(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> str | None:
    """Return the reason why a model cannot run on cache slots, or None if it can."""
    kinds = set(attention_kinds(config)) - {*KINDS}
    if not isinstance(getattr(config, "num_hidden_layers", None), int):
        return "has no single stack of decoder layers (its config has no num_hidden_layers)"
    if getattr(model_class, "_is_stateful", False) and not is_recurrent(config):
        return "has recurrent layers whose config does not list them, so their states cannot be kept"
    if kinds:
        return (
            f"has layers of kind {', '.join(sorted(kinds))}; only full, sliding-window, chunked and recurrent ones work"
        )
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "uses ALiBi, which takes distances from the order of the slots and not from the positions"
    if attention_kinds(config) and "position_ids" not in inspect.signature(model_class.forward).parameters:
        return "takes no position_ids, so its tokens cannot be placed"
    if getattr(config, "use_bidirectional_attention", False):
        return "attends in both directions, so it cannot decode"
    return None
