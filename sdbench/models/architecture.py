"""Which architectures can be stepped over slots, from their configs alone.

A step gives a model positions and a mask of its own and rolls back by overwriting slots. That is enough for full and
sliding-window attention. It is not for a recurrent state (which cannot be rolled back), for an encoder-decoder, or for
a model that derives positions or distances from the mask's shape instead of the positions it is given.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from sdbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FULL, SLIDING = "full_attention", "sliding_attention"


def causal_lm_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class of the text model that a config describes; of an image-and-text model, its text part alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    for candidate in (config.get_text_config(), config):
        if type(candidate) in MODEL_FOR_CAUSAL_LM_MAPPING:
            found = MODEL_FOR_CAUSAL_LM_MAPPING[type(candidate)]
            return found[0] if isinstance(found, tuple) else found
    return None


def check_architecture(role: str, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The model class that a config needs; InputError if it cannot be stepped over slots."""
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
    return model_class


def _unsuited(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> str | None:
    """Why a model cannot be stepped over slots, or None."""
    kinds = set(getattr(config, "layer_types", None) or ())
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
