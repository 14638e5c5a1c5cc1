"""The first layers of a `transformers` model and its head, as a model of its own (early exit; LayerSkip, 2404.16710)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from sdbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def first_layers(model: PreTrainedModel, layers: int, depth: int) -> PreTrainedModel:
    """Return a shallow copy of `model` with only its first `layers` of `depth` decoder layers. All parameters are shared.

    Raises:
        InputError: the list of decoder layers was not found.
    """
    body: Any = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    lists = [name for name, child in body.named_children() if isinstance(child, nn.ModuleList) and len(child) == depth]
    if not lists:
        raise InputError(f"{type(model).__name__}: its list of decoder layers was not found, so it has no early exit.")
    cut = _shallow(body)
    cut._modules[lists[0]] = nn.ModuleList(list(body._modules[lists[0]])[:layers])
    return _with_body(model, body, cut)


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
