"""The first layers of a `transformers` model and its head (early exit; LayerSkip, 2404.16710): as a model, or during a step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdbench.errors import InputError

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


def hook_exit(
    model: PreTrainedModel, layers: int, depth: int, count: int, receive: Callable[[Float[Tensor, "B R W"]], None]
) -> RemovableHandle:
    """Give `receive` the head's logits of the last `count` tokens once the first `layers` of `depth` layers have run.

    The forward goes on behind it, so no layer runs twice. A scaling of the logits behind the head is left out. Remove the handle
    behind the forward.

    Raises:
        InputError: the list of decoder layers, or the norm behind it, was not found.
    """
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
    norms = [child for child in layers_of(model, depth)[0].children() if "norm" in type(child).__name__.lower()]
    if not norms:
        raise InputError(f"{type(model).__name__}: the norm behind its last layer was not found.")
    return norms[-1]


def layers_of(model: PreTrainedModel, depth: int) -> tuple[Any, str]:
    """Return the module that holds the list of `depth` decoder layers, and the name of the list there.

    Raises:
        InputError: the list was not found.
    """
    body: Any = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    lists = [name for name, child in body.named_children() if isinstance(child, nn.ModuleList) and len(child) == depth]
    if not lists:
        raise InputError(f"{type(model).__name__}: its list of decoder layers was not found.")
    return body, lists[0]


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
