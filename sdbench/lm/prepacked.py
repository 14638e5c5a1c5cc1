"""Keep large weights of a model a second time, in the blocked layout of oneDNN (CPU).

torch computes `nn.Linear` with a routine that reads the weight as it lies. In float32 it is slow for the few tokens of a
verification, but not for one token: there it is as fast as the blocked copy, or faster. In bfloat16 it is slow for one token
too. oneDNN reads a blocked copy of the weight with the kernels that `torch.compile` uses for frozen models.
`experiments/benchmarks/prepacked.py` measures the gain.

Compiled programs hold no weights, so they call the operator `sdbench::linear`. It finds the blocked copy by the address of the
weight.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sdbench.device import takes_blocked_weights

SMALLEST = 2**18  # weights of a matrix; the call costs more than it saves for a smaller one
_ROWS = 64  # the number of tokens that oneDNN chooses the layout for; a layout for one token is slow for several


class PrepackedLinear(nn.Linear):
    """An `nn.Linear` that computes with a blocked copy of its weight.

    The first forward makes the copy, and the first forward after a change of the weight makes it anew. With gradients it computes
    as `nn.Linear` does, and so it does for another type of numbers. A copy of the module makes its own blocked weight.
    """

    # The blocked weight, the weight that it was made of, and that weight's version.
    _blocked: tuple[Tensor, Tensor, int] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return torch.ops.sdbench.linear(input, self.weight, self.bias)
        if torch.is_grad_enabled() and (self.weight.requires_grad or input.requires_grad):
            return super().forward(input)
        if input.dtype != self.weight.dtype or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return self.product(input)

    def product(self, input: Tensor) -> Tensor:
        """Return the output, computed with the blocked copy, or for one token in float32 with the weight itself."""
        weight = self.weight
        if input.dtype == torch.float32 and input.numel() == input.shape[-1]:
            return linear(input, weight, self.bias)
        version = 0 if weight.is_inference() else weight._version
        kept = self._blocked
        if kept is None or kept[1] is not weight or kept[2] != version:
            kept = self._blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS), weight, version
        return torch.ops.mkldnn._linear_pointwise(input, kept[0], self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocked": None}


def prepack(model: nn.Module) -> None:
    """Let the large matrices of a model on the CPU compute with blocked copies of their weights.

    These are matrices in float32, and in bfloat16 if the processor has instructions for it. Nothing changes for other matrices, for
    quantised weights, and where torch was built without oneDNN.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for part in model.modules():
        if type(part) is nn.Linear and _fits(part.weight):
            part.__class__ = PrepackedLinear


def prepacked_parts(model: nn.Module) -> dict[str, PrepackedLinear]:
    """Return the parts of a model that compute with blocked weights, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, PrepackedLinear)}


def prepacked_bytes(model: nn.Module) -> int:
    """Return the size of the blocked copies that a model holds now."""
    held = [part.weight for part in prepacked_parts(model).values() if part._blocked is not None]
    return sum(weight.numel() * weight.element_size() for weight in held)


def locate(model: nn.Module) -> None:
    """Let programs find the blocked weights of a model. Call it again when the weights have moved."""
    for part in prepacked_parts(model).values():
        _located[part.weight.data_ptr()] = part


_located: WeakValueDictionary[int, PrepackedLinear] = WeakValueDictionary()  # by the address of the weight


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    part = _located.get(weight.data_ptr())
    if part is None or part.weight.data_ptr() != weight.data_ptr():
        return linear(input, weight, bias)
    return part.product(input)


def _shape(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


_library = torch.library.Library("sdbench", "DEF")
_library.define("linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("linear", _product, "CPU")
_library.impl("linear", _shape, "Meta")


def _fits(weight: Tensor) -> bool:
    plain = type(weight.data) is Tensor and weight.layout == torch.strided and weight.device.type == "cpu"
    return plain and takes_blocked_weights(weight.dtype) and weight.numel() >= SMALLEST
