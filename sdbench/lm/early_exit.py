"""Some layers of a `transformers` model and a head, as a model: the first ones (early exit; LayerSkip, 2404.16710), or later ones.

Later layers take the hidden states of earlier ones from the cache (AdaDecode, 2506.03700). `hook_exit` reads an exit during a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdbench.errors import InputError
from sdbench.lm.kv_cache import KVCache, hidden_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def first_layers(model: PreTrainedModel, layers: int, depth: int) -> PreTrainedModel:
    """Return a shallow copy of `model` with only its first `layers` of `depth` decoder layers. All parameters are shared.

    Raises:
        InputError: the list of decoder layers was not found.
    """
    body, name = layers_of(model, depth)
    cut = _shallow(body)
    cut._modules[name] = nn.ModuleList(list(body._modules[name])[:layers])
    return _with_body(model, body, cut)


def layers_between(
    model: PreTrainedModel, start: int, stop: int, depth: int, head: nn.Module | None
) -> PreTrainedModel:
    """Return a shallow copy of `model` that runs only its decoder layers `start` to `stop` - 1 of `depth`. Parameters are shared.

    Behind its last layer the copy writes the hidden states into the cache (`sdbench.lm.kv_cache`), unless this is the last layer
    of all. If `start` is not 0, the hidden states before its first layer come from there too, and no earlier layer runs.

    head: in place of the model's own head; None keeps that one.

    Raises:
        InputError: the list of decoder layers, or the head, was not found.
    """
    body, name = layers_of(model, depth)
    cut = _shallow(body)
    left = [_Left(number, start if number == start - 1 else None) for number in range(start)]
    kept = [_Kept(stop)] if stop < depth else []
    cut._modules[name] = nn.ModuleList([*left, *list(body._modules[name])[start:stop], *kept])
    copied = _with_body(model, body, cut)
    own = model.get_output_embeddings()
    if own is None:
        raise InputError(f"{type(model).__name__}: its head was not found, so it has no early exit.")
    return copied if head is None else _with_body(copied, own, head)


class _Left(nn.Module):
    """A layer that is left out. The last one before those that run gives the hidden states that the cache holds there.

    Another cache than sdbench's holds none, such as in a timing. There the step's embeddings go on, and the layer keeps one zero
    for each token, so that the cache counts its tokens.
    """

    def __init__(self, number: int, given: int | None) -> None:
        super().__init__()
        self._number, self._given = number, given

    def forward(self, hidden_states: Float[Tensor, "B T D"], *args: Any, **named: Any) -> Float[Tensor, "B T D"]:
        cache = _cache_in(args, named)
        if isinstance(cache, KVCache):
            if self._given is None:
                return hidden_states
            return cache.recorded(hidden_layer(self._given), hidden_states.shape[1]).to(hidden_states.dtype)
        if cache is not None:
            zeros = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            cache.update(zeros, zeros, self._number)
        return hidden_states


class _Kept(nn.Module):
    """Write the hidden states behind `number` layers into the cache."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def forward(self, hidden_states: Float[Tensor, "B T D"], *args: Any, **named: Any) -> Float[Tensor, "B T D"]:
        cache = _cache_in(args, named)
        if isinstance(cache, KVCache):
            cache.record(hidden_states, hidden_layer(self._number))
        return hidden_states


def _cache_in(args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Find the cache among the arguments of a decoder layer."""
    return next((one for one in (*args, *named.values()) if hasattr(one, "get_mask_sizes")), None)


def hook_exit(
    model: PreTrainedModel, layers: int, depth: int, count: int, receive: Callable[[Float[Tensor, "B R W"]], None]
) -> RemovableHandle:
    """Give `receive` the head's logits of the last `count` tokens once the first `layers` of `depth` layers have run.

    The forward goes on behind it, so no layer runs twice. A scaling of the logits behind the head is left out. Remove the handle
    behind the forward.

    Raises:
        InputError: the list of decoder layers, or the norm behind it, was not found, or there is no hidden state between layers.
    """
    check_states(model)
    body, name = layers_of(model, depth)
    norm, head = last_norm(model, depth), model.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(model).__name__}: its head was not found, so it has no early exit.")

    def leave(layer: nn.Module, given: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        receive(head(norm(hidden[:, -count:])))

    return body._modules[name][layers - 1].register_forward_hook(leave)


def last_norm(model: PreTrainedModel, depth: int) -> nn.Module:
    """Return the norm behind the last of `depth` decoder layers. Raises: InputError if it was not found."""
    width = cast(Any, model.get_input_embeddings()).weight.shape[-1]
    norms = [child for child in layers_of(model, depth)[0].children() if "norm" in type(child).__name__.lower()]
    wide = [norm for norm in norms if all(weight.shape[-1] == width for weight in norm.parameters())]
    if not wide:
        raise InputError(f"{type(model).__name__}: the norm behind its last layer was not found.")
    return wide[-1]


def check_states(model: PreTrainedModel) -> None:
    """Refuse a model without one hidden state per token between its layers. Raises: InputError."""
    if getattr(model.config.get_text_config(), "altup_num_inputs", 1) > 1:
        raise InputError(
            f"{type(model).__name__} keeps several hidden states of each token between its layers (AltUp), so they cannot be read "
            "there. A draft model, a look-up or early_exit can draft for it."
        )


def layers_of(model: PreTrainedModel, depth: int) -> tuple[Any, str]:
    """Return the module that holds the list of `depth` decoder layers, and the name of the list there.

    Raises:
        InputError: the list was not found.
    """
    body: Any = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    for module in body.modules():  # some classes call themselves their decoder
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return cast(Any, module), name
    raise InputError(f"{type(model).__name__}: its list of decoder layers was not found.")


def _with_body(module: Any, body: nn.Module, cut: nn.Module) -> Any:
    """Return a shallow copy of `module` in which `cut` replaces `body`, at whatever depth."""
    if module is body:
        return cut
    new = _shallow(module)
    for name, child in module.named_children():
        if any(part is body for part in child.modules()):
            new._modules[name] = _with_body(child, body, cut)
    return new


def _shallow(module: Any) -> Any:
    new = copy.copy(module)
    new._modules = dict(module._modules)
    return new
