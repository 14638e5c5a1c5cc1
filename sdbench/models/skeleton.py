"""Build a model without storage from its config, to get the shapes of its parameters and the size of its KV cache.

The meta device computes shapes only. A forward on it works before any weight is loaded. It shows whether the model accepts the
arguments of a step, and how large the cache of each layer is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.errors import InputError
from sdbench.models.quiet import quiet, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FULL, SLIDING = "full_attention", "sliding_attention"


def causal_lm_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class of the text model of a config. For an image-and-text model, this is the class of its text part."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    for candidate in (config.get_text_config(), config):
        if type(candidate) in MODEL_FOR_CAUSAL_LM_MAPPING:
            found = MODEL_FOR_CAUSAL_LM_MAPPING[type(candidate)]
            return found[0] if isinstance(found, tuple) else found
    return None


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the text model of a config without storage.

    Errors: InputError if transformers has no such causal language model, or cannot build it from this config.
    """
    model_class = causal_lm_class(config)
    if model_class is None:
        raise InputError(f"{config.model_type} is not a causal language model that transformers knows.")
    text = config.get_text_config()
    options = {"attn_implementation": "sdpa"} if model_class._supports_sdpa else {}
    make: Callable[..., Any] = model_class._from_config
    try:
        # On the meta device, the grouped products of mixtures of experts support bfloat16 only.
        with torch.device("meta"), quiet():
            model = make(text if model_class.config_class is type(text) else config, dtype=torch.bfloat16, **options)
        model.tie_weights()
    except Exception as error:  # a config that does not match its class can raise any type
        raise InputError(f"{model_class.__name__} cannot be made from this config ({reason_of(error)}).") from error
    return model.eval().requires_grad_(False)


class _Sizes:
    """A KV cache that stores only the size of each layer: the numbers per token and row."""

    is_compileable = is_initialized = True

    def __init__(self) -> None:
        self.is_sliding: list[bool] = []
        self.layers: list[Any] = []
        self.by_layer: dict[int, int] = {}

    def update(
        self, key: Float[Tensor, "B H T D"], value: Float[Tensor, "B H2 T D2"], layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.by_layer[layer] = sum(part.shape[1] * part.shape[3] for part in (key, value))
        return key, value

    def get_seq_length(self, *args: Any) -> int:
        return 0

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return 1, 0

    def get_max_cache_shape(self, *args: Any) -> int:
        return 1


@dataclass(frozen=True)
class Trial:
    """The result of one forward of a skeleton.

    cache_values: the numbers (keys and values) cached per token, over all layers; None if the forward reached no layer. failure:
    the reason why the model rejects the arguments of a step; None if it accepts them, or if the meta device cannot tell.
    """

    cache_values: int | None
    failure: str | None


def tried(config: PreTrainedConfig) -> Trial:
    """Run one token through the skeleton of a config's model. The result is cached. Errors: InputError, as in `skeleton`."""
    return _tried(type(config), json.dumps(config.to_dict(), sort_keys=True, default=str))


@lru_cache(maxsize=32)
def _tried(config_class: type[PreTrainedConfig], document: str) -> Trial:
    config = config_class.from_dict(json.loads(document))
    return try_out(skeleton(config))


def try_out(model: Any) -> Trial:
    """Run one token through a model on the meta device, with a cache that records sizes."""
    config, sizes = model.config.get_text_config(), _Sizes()
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    one = torch.zeros(1, 1, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device="meta")
    complete, failure = False, None
    try:
        with torch.inference_mode(), quiet():
            model(
                input_ids=one,
                position_ids=one,
                past_key_values=sizes,
                use_cache=True,
                attention_mask=dict.fromkeys(kinds, mask) if len(kinds) > 1 else mask,
                logits_to_keep=1,
            )
        complete = True
    except Exception as error:  # the model's code can raise any type
        # Some forwards need values, for example the chosen experts. The meta device has no values, so only a test of the loaded
        # model can tell whether the call works.
        if not (isinstance(error, NotImplementedError) or "meta" in str(error)):
            failure = reason_of(error)
    kept = list(sizes.by_layer.values())
    if not kept:
        return Trial(None, failure)
    # After an incomplete forward, assume that the missing layers have the size of the last recorded layer.
    missing = 0 if complete else max(config.num_hidden_layers - len(kept), 0)
    return Trial(sum(kept) + missing * kept[-1], failure)
