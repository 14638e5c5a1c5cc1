"""Make a model from the weights of another one: some of its layers, or its linear layers cast (`sdbench.models.derivation`).

A cast is simulated. Its weights have the values of the stored format, and keep the dtype of the model. So its acceptance is real,
and its speed is not that of the format.
"""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdbench.errors import InputError
from sdbench.models.derivation import HEAD, Derivation
from sdbench.models.mxfp4 import BITS, mxfp4

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def derived(model: PreTrainedModel, role: str, how: Derivation) -> PreTrainedModel:
    """Return the derived model. It shares with `model` every weight that the derivation does not change.

    role: for messages. Errors: InputError if the model has no such layers, no such modules, or no plain weights to cast.
    """
    made = shared_copy(model)
    if how.layers is not None:
        _take_layers(made, role, how)
    if how.weights is not None:
        _take_weights(made, role, how)
    if how.quantize is not None:
        _cast(made, role, how)
    return made


def shared_copy(model: Any) -> Any:
    """Return a copy of a model that shares every weight and buffer with it."""
    return copy.deepcopy(model, {id(weight): weight for weight in (*model.parameters(), *model.buffers())})


def put_weight(model: nn.Module, name: str, weight: nn.Parameter) -> None:
    """Put a weight into a model, in the place of the one of this name."""
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, weight)


def _take_layers(model: Any, role: str, how: Derivation) -> None:
    """Keep the chosen layers, in place."""
    text = model.config.get_text_config()
    body = model.get_decoder()
    depth = text.num_hidden_layers
    kept = how.kept(role, depth)
    lists = [name for name, part in body.named_children() if isinstance(part, nn.ModuleList) and len(part) == depth]
    if not lists:
        raise InputError(f"models.{role}.derive.layers: {type(model).__name__} has no list of decoder layers.")
    chosen = nn.ModuleList([getattr(body, lists[0])[layer] for layer in kept])
    for number, layer in enumerate(chosen):
        for part in layer.modules():
            part: Any
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = number
    setattr(body, lists[0], chosen)
    # A body with a config object of its own reads the number of its layers there.
    fewer = how.of_config(role, text)
    for part in (model, body):
        own = part.config.get_text_config()
        own.__dict__.update({key: value for key, value in fewer.__dict__.items() if key in own.__dict__})


def _take_weights(model: Any, role: str, how: Derivation) -> None:
    """Put trained weights in the place of those of the same name. Errors: InputError if the model has no such weight."""
    from safetensors.torch import load_file

    assert how.weights is not None
    named = dict(model.named_parameters())
    for name, trained in load_file(how.weights).items():
        held = named.get(name)
        if held is None or held.shape != trained.shape:
            what = "no such weight" if held is None else f"it as {'x'.join(map(str, held.shape))}"
            raise InputError(
                f"models.{role}.derive.weights: {how.weights.parent} holds {name} as {'x'.join(map(str, trained.shape))}, and "
                f"{how.source} has {what}: it was trained from another model."
            )
        put_weight(model, name, nn.Parameter(trained.to(held.device, held.dtype), requires_grad=False))


def _cast(model: Any, role: str, how: Derivation) -> None:
    """Cast the weights of the linear layers, in place."""
    from transformers.pytorch_utils import Conv1D

    for name, part in _cast_layers(model, role, how).items():
        weight = part.weight
        if type(weight.data) is not torch.Tensor or not weight.is_floating_point():
            raise InputError(f"models.{role}.derive.quantize: {name} is quantised already, so it cannot be cast.")
        values = mxfp4(weight.data, dim=0 if isinstance(part, Conv1D) else 1)
        part.weight = nn.Parameter(values, requires_grad=False)


def stored_share(model: Any, role: str, how: Derivation, item: int) -> float:
    """Return the bytes of a model's weights in the stored format of its cast, as a share of its bytes without the cast.

    model: the source, with or without storage. item: bytes of a number in the dtype of the model.
    """
    whole = item * sum(weight.numel() for weight in model.parameters())
    numbers = sum(part.weight.numel() for part in _cast_layers(model, role, how).values())
    return (whole - numbers * (item - BITS / 8)) / whole


def _cast_layers(model: Any, role: str, how: Derivation) -> dict[str, Any]:
    """Return the linear layers that are cast, by name. Errors: InputError."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D)}
    skipped: set[str] = set()
    for pattern in how.skip:
        named = {name for name, part in linear.items() if _named(pattern, name) or (pattern == HEAD and part is head)}
        if not named and pattern != HEAD:
            raise InputError(
                f"models.{role}.derive.skip: no linear layer of {type(model).__name__} is named '{pattern}'."
            )
        skipped |= named
    cast = {name: part for name, part in linear.items() if name not in skipped}
    if not cast:
        raise InputError(f"models.{role}.derive.quantize: {type(model).__name__} has no linear layer to cast.")
    return cast


def _named(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)
