"""The decoder inside a model of `transformers`: where its layers hang, and the same model with the first of them alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from sdbench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def first_layers(model: PreTrainedModel, layers: int, depth: int) -> PreTrainedModel:
    """A shallow copy of `model` whose list of decoder layers is cut; every parameter is shared."""
    body, name = decoder(model, depth)
    if name is None:
        raise InputError(f"{type(model).__name__}: its list of decoder layers was not found, so it has no early exit.")
    cut: Any = _shallow(body)
    cut._modules[name] = nn.ModuleList(list(body._modules[name])[:layers])
    return _with_body(model, body, cut)


def decoder(model: PreTrainedModel, depth: int) -> tuple[Any, str | None]:
    """The module that holds the list of a model's `depth` decoder layers, and the list's name there; None if it was not found."""
    body: Any = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    lists = [name for name, child in body.named_children() if isinstance(child, nn.ModuleList) and len(child) == depth]
    return body, lists[0] if lists else None


def _with_body(module: Any, body: nn.Module, cut: nn.Module) -> Any:
    """A shallow copy of `module` in which `body`, wherever it hangs, is replaced by `cut`."""
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
