"""The own forward of a `transformers` model, called over the KV cache with ready masks, in the target's token ids.

Taps write hidden states into the cache while the model runs, so its code stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from sdbench.errors import InputError
from sdbench.lm.early_exit import check_states, last_norm, layers_of
from sdbench.lm.kv_cache import KVCache, hidden_layer
from sdbench.models.skeleton import step_arguments
from sdbench.models.token_map import SameIds


def forward(
    model: Any,
    tokens: Int[Tensor, "B T"],
    positions: Int[Tensor, "B T"],
    cache: KVCache,
    kinds: tuple[str, ...],
    masks: list[Float[Tensor, "B 1 T E"]],
    num_logits: int,
    ids: SameIds,
    taps: tuple[int, ...] = (),
    unmasked: tuple[str, ...] = (),
) -> Float[Tensor, "B R V"]:
    """Return the logits of the last `num_logits` tokens.

    masks: one for each kind of attention layers. ids: translates between the target's V token ids and the model's own. taps: the
    layers whose hidden states are written into the cache. unmasked: kinds of layers that take no mask.
    """
    with _tapped(model, taps, cache):
        given = step_arguments(cache, positions, kinds, masks, unmasked)
        logits = model(input_ids=ids.read(tokens), use_cache=True, logits_to_keep=num_logits, **given).logits
    return ids.widen(logits)


def check_taps(name: str, model: Any, taps: tuple[int, ...]) -> None:
    """Refuse layers that a model does not have. name: of the model, for the message. Raises: InputError."""
    depth = model.config.get_text_config().num_hidden_layers
    if any(not 0 <= layer <= depth for layer in taps):
        raise InputError(
            f"{name} has {depth} layers, so it has hidden states 0 to {depth}, but {list(taps)} are asked for."
        )
    check_states(model)
    layers_of(model, depth)
    if depth in taps:
        last_norm(model, depth)


@contextmanager
def _tapped(model: Any, taps: tuple[int, ...], cache: KVCache) -> Iterator[None]:
    """Write the hidden states of some layers into the cache while the model runs.

    The hooks stay for one forward only. So a model without taps, and a traced or captured program, carries none.
    """
    if not taps:
        yield
        return
    depth = model.config.get_text_config().num_hidden_layers
    body, name = layers_of(model, depth)

    def before(number: int) -> Any:
        def write(layer: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            cache.record(given[0] if given else named["hidden_states"], number)

        return write

    def behind(norm: Any, given: Any, output: Tensor) -> None:
        cache.record(output, hidden_layer(depth))

    hooks = [
        last_norm(model, depth).register_forward_hook(behind)
        if layer == depth
        else body._modules[name][layer].register_forward_pre_hook(before(hidden_layer(layer)), with_kwargs=True)
        for layer in taps
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
