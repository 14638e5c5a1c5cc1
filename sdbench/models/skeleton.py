"""Build a model without storage from its config, to get the shapes of its parameters and the size of its KV cache.

The meta device computes shapes only. A forward on it works before any weight is loaded. It shows whether the model accepts the
arguments of a step, and how large the cache of each layer is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.errors import InputError
from sdbench.models.quiet import quiet, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
INDEXED = (
    "indexed_attention"  # a query sees the tokens that an indexer of the layer chooses among those of full attention
)
KINDS = (FULL, SLIDING, CHUNKED, INDEXED)  # of attention layers that can run on cache slots
LOCAL = (SLIDING, CHUNKED)  # those whose queries see near tokens only
RECURRENT = ("linear_attention", "conv")  # layers with a state
KEPT_STATES = 32  # the most states that a row keeps (`sdbench.lm.recurrent`)
_BOTH = {"hybrid": FULL, "hybrid_sliding": SLIDING}  # layers with a state and with attention
_NEITHER = ("moe", "mlp")


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
    options = {"attn_implementation": attention_of(model_class)}
    make: Callable[..., Any] = model_class._from_config
    try:
        # On the meta device, the grouped products of mixtures of experts support bfloat16 only.
        with torch.device("meta"), quiet():
            model = make(text if model_class.config_class is type(text) else config, dtype=torch.bfloat16, **options)
        model.tie_weights()
    except Exception as error:  # a config that does not match its class can raise any type
        raise InputError(f"{model_class.__name__} cannot be made from this config ({reason_of(error)}).") from error
    return model.eval().requires_grad_(False)


def step_arguments(
    cache: Any, positions: Tensor, kinds: Sequence[str], masks: Sequence[Tensor], unmasked: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what a model takes beside tokens, under the names of its class.

    kinds: of its attention layers, one for each mask. A model without any takes no mask and no positions. unmasked: the kinds of
    layers that take no mask.
    """
    named = {cache_argument(kinds): cache}
    if not kinds:
        return named
    alone = len(masks) == 1 and not unmasked
    by_kind = masks[0] if alone else {**dict.fromkeys(unmasked), **dict(zip(kinds, masks, strict=True))}
    return {**named, "position_ids": positions, "attention_mask": by_kind}


def cache_argument(kinds: Sequence[str]) -> str:
    """Return the name under which a class takes its cache. kinds: of the attention layers."""
    return "past_key_values" if kinds else "cache_params"


def attention_of(model_class: type[PreTrainedModel]) -> str:
    """Return how a class computes attention over masks of our own: `sdpa`, or `eager` for what sdpa lacks, such as sinks."""
    return "sdpa" if model_class._supports_sdpa else "eager"


def is_recurrent(config: PreTrainedConfig) -> bool:
    """Return whether some layers of a model have a recurrent state."""
    return any(kind in RECURRENT or kind in _BOTH for kind in _listed(config))


def unmasked_kinds(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the kinds of layers of a recurrent model that take no mask; none for another model."""
    if not is_recurrent(config):
        return ()
    return tuple(sorted({*RECURRENT, *_listed(config)} - {*KINDS}))


def attention_kinds(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the kinds of attention layers of a model, in the order of `KINDS`, or of what cannot run on cache slots."""
    text = config.get_text_config()
    kinds = {_BOTH.get(kind, kind) for kind in _listed(config)} - {*RECURRENT, *_NEITHER}
    if is_recurrent(config):
        # A class for models with attention asks for that mask, even where a config lists no such layer.
        kinds = kinds or (set() if _without_attention(config) else {FULL})
    elif not kinds:
        windowed = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
        kinds = {SLIDING} if windowed else {FULL}
    return (*(kind for kind in KINDS if kind in kinds), *sorted(kinds - {*KINDS}))


def other_than_full_attention(config: PreTrainedConfig) -> str:
    """Name the layers of a model that have no full attention, for a message; "" if all have it."""
    kinds = sorted({*attention_kinds(config)} - {FULL})
    return ", ".join(kinds) or ("recurrent states" if is_recurrent(config) else "")


def _without_attention(config: PreTrainedConfig) -> bool:
    """Return whether the class of a model has recurrent layers only (Mamba). Such classes call their cache `cache_params`."""
    found = causal_lm_class(config)
    return found is not None and "cache_params" in signature(found.forward).parameters


def _listed(config: PreTrainedConfig) -> set[str]:
    """Return the kinds of layers that a config lists."""
    return set(getattr(config.get_text_config(), "layer_types", None) or ())


class _Sizes:
    """A KV cache that stores only the size of each layer: the numbers per token and row."""

    is_compileable = is_initialized = True

    def __init__(self) -> None:
        self.is_sliding: list[bool] = []
        self.layers: list[Any] = []
        self.by_layer: dict[int, int] = {}
        self.by_state: dict[tuple[int, int, bool], int] = {}

    def update(
        self, key: Float[Tensor, "B H T D"], value: Float[Tensor, "B H2 T D2"], layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.by_layer[layer] = sum(part.shape[1] * part.shape[3] for part in (key, value))
        return key, value

    def update_indexer(self, key: Float[Tensor, "B T D"], layer: int, *args: Any, **kwargs: Any) -> Tensor:
        self.by_layer[layer] = self.by_layer.get(layer, 0) + key.shape[2]
        return key

    def update_conv_state(self, states: Tensor, layer_idx: int, state_idx: int = 0, **named: Any) -> Tensor:
        self.by_state[layer_idx, state_idx, False] = states.shape[1] * (named.get("conv_kernel_size") or 1)
        return states

    def update_recurrent_state(self, states: Tensor, layer_idx: int, state_idx: int = 0, **named: Any) -> Tensor:
        self.by_state[layer_idx, state_idx, True] = states[0].numel()
        return states

    def get_conv_state(self, *args: Any, **named: Any) -> None:
        return None

    get_recurrent_state = get_conv_state

    def is_recording_past(self, layer_idx: int) -> bool:
        return True

    def has_previous_state(self, *args: Any) -> bool:
        return False

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
    state_values: the numbers of the recurrent states of a row, over all layers.
    """

    cache_values: int | None
    failure: str | None
    state_values: int = 0


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
    kinds, unmasked = attention_kinds(config), unmasked_kinds(config)
    one = torch.zeros(1, 1, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device="meta")
    complete, failure = False, None
    try:
        with torch.inference_mode(), quiet():
            given = step_arguments(sizes, one, kinds, [mask] * len(kinds), unmasked)
            model(input_ids=one, use_cache=True, logits_to_keep=1, **given)
        complete = True
    except Exception as error:  # the model's code can raise any type
        # Some forwards need values, for example the chosen experts. The meta device has no values, so only a test of the loaded
        # model can tell whether the call works.
        if not (isinstance(error, NotImplementedError) or "meta" in str(error)):
            failure = reason_of(error)
    kept, states = list(sizes.by_layer.values()), sum(sizes.by_state.values())
    if complete and unmasked and not states:
        failure = "its recurrent layers keep their states outside the cache"
    if not kept:
        return Trial(0 if complete and states else None, failure, states)
    # After an incomplete forward, assume that the missing layers have the size of the last recorded layer.
    missing = 0 if complete else max(config.num_hidden_layers - len(kept), 0)
    return Trial(sum(kept) + missing * kept[-1], failure, states)
