"""Prune the linear layers of a draft in one shot, with what calibration sequences say about their inputs.

    magnitude   drop the weights with the smallest |W|, over the whole layer. No calibration
    wanda       drop the smallest |W_ij| * ||X_j||, within each output row (2306.11695)
    sparsegpt   drop the weights whose loss raises the error of the outputs least, and change the others to make up for it
                (SparseGPT, 2301.00774)

X holds the inputs of a layer, [N, C]. All that is needed of it is the Gram matrix X'X. The layers are pruned from the first to the
last one, so the inputs of a layer are those that the pruned layers before it give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sdbench import validate
from sdbench.errors import InputError
from sdbench.training.network_calls import hidden_behind, product_mode

METHODS = ("sparsegpt", "wanda", "magnitude")
PATTERNS = ("unstructured", "2:4")


@dataclass(frozen=True)
class Pruning:
    """How layers are pruned.

    method, pattern: of METHODS and PATTERNS. share: of the weights that are dropped, if the pattern is unstructured. 2:4 drops two
    of four adjacent weights of a row. block: columns that sparsegpt prunes at a time; it compares weights within a block. damping:
    share of the mean of the Gram matrix's diagonal that sparsegpt adds to the diagonal.
    """

    method: str = "sparsegpt"
    pattern: str = "unstructured"
    share: float = 0.5
    block: int = 128
    damping: float = 0.01

    def __post_init__(self) -> None:
        validate.choice("recipe.prune", self.method, METHODS)
        validate.choice("recipe.pattern", self.pattern, PATTERNS)
        validate.number("recipe.sparsity", self.share, 0, 1, "[)")
        validate.whole("recipe.block", self.block, 4)
        validate.number("recipe.damping", self.damping, 0)
        if self.pattern == "2:4" and self.block % 4:
            raise InputError(f"recipe.block is {self.block}; with recipe.pattern=2:4 it must be a multiple of 4.")

    def dropped(self, score: Float[Tensor, "R C"], by_row: bool = False) -> Bool[Tensor, "R C"]:
        """Return which weights are dropped: those with the lowest scores, exactly as many as the pattern says.

        by_row: each row drops the same number.
        """
        if self.pattern == "2:4":
            order = score.unflatten(1, (-1, 4)).argsort(dim=-1, stable=True)
            lowest = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :2], True)
            return lowest.flatten(1)
        rows = score if by_row else score.reshape(1, -1)
        lowest = rows.argsort(dim=-1, stable=True)[:, : round(self.share * rows.shape[1])]
        return torch.zeros_like(rows, dtype=torch.bool).scatter_(-1, lowest, True).view_as(score)

    def pruned(self, weight: Float[Tensor, "R C"], gram: Float[Tensor, "C C"] | None = None) -> Float[Tensor, "R C"]:
        """Return the weight of a layer, pruned. gram: X'X of its inputs, which magnitude does not need.

        Errors: InputError if 2:4 does not divide the columns.
        """
        if self.pattern == "2:4" and weight.shape[1] % 4:
            raise InputError(
                f"recipe.pattern is 2:4, but a layer has {weight.shape[1]} columns, which 4 does not divide."
            )
        if self.method == "magnitude":
            return weight.masked_fill(self.dropped(weight.abs()), 0.0)
        assert gram is not None
        if self.method == "wanda":
            score = weight.abs() * gram.diagonal().clamp(min=0).sqrt()
            return weight.masked_fill(self.dropped(score, by_row=True), 0.0)
        return self._solved(weight, gram)

    def _solved(self, weight: Float[Tensor, "R C"], gram: Float[Tensor, "C C"]) -> Float[Tensor, "R C"]:
        """Prune column by column, and spread the error of each column over the columns behind it (SparseGPT, Algorithm 1).

        The upper Cholesky factor U of the inverse of X'X has in row i what the update needs: U_ii^2 is the i-th diagonal entry of
        the inverse without the columns before i.
        """
        weight, gram = weight.double().clone(), gram.double().clone()
        unused = gram.diagonal() == 0  # an input that is always zero
        gram[unused, unused] = 1.0
        weight[:, unused] = 0.0
        gram.diagonal().add_(self.damping * gram.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        factor = torch.linalg.cholesky(inverse, upper=True)
        for first in range(0, weight.shape[1], self.block):
            last = min(first + self.block, weight.shape[1])
            part, own = weight[:, first:last], factor[first:last, first:last]  # a view: the loop changes the weight
            lost = torch.zeros_like(part)
            drop = self.dropped((part / own.diagonal()) ** 2)
            for column in range(last - first):
                if self.pattern == "2:4" and column % 4 == 0:  # with what the columns before have changed
                    four = slice(column, column + 4)
                    drop[:, four] = self.dropped((part[:, four] / own.diagonal()[four]) ** 2)
                gone = drop[:, column]
                lost[:, column] = torch.where(gone, part[:, column], 0.0) / own[column, column]
                part[:, column:] -= lost[:, column, None] * own[column, column:]
                part[:, column].masked_fill_(gone, 0.0)
            weight[:, last:] -= lost @ factor[first:last, last:]
        return weight.float()


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the decoder layers of a model. Errors: InputError if it has no list of them."""
    depth = model.config.get_text_config().num_hidden_layers
    for part in model.get_decoder().children():
        if isinstance(part, nn.ModuleList) and len(part) == depth:
            return part
    raise InputError(f"{type(model).__name__} has no list of decoder layers, so its layers cannot be pruned.")


def linear_layers(layer: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers within a decoder layer, by name."""
    return {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}


def prune(model: Any, how: Pruning, sequences: Sequence[Int[Tensor, " _"]] = ()) -> None:
    """Prune the linear layers of all decoder layers, in place. Embedding and head stay as they are.

    sequences: for calibration; magnitude needs none. Errors: InputError if a layer cannot be pruned.
    """
    layers = decoder_layers(model)
    if not linear_layers(layers):
        raise InputError(f"{type(model).__name__} has no plain linear layer to prune.")
    with torch.no_grad(), product_mode(model):
        if how.method == "magnitude":
            for part in linear_layers(layers).values():
                part.weight.copy_(how.pruned(part.weight))
            return
        read = [_first_inputs(model, layers, tokens) for tokens in sequences]
        for number, layer in enumerate(layers):
            with _grams(linear_layers(layer)) as grams:
                for hidden, extra in read:
                    layer(hidden, **extra[number])
            for name, part in linear_layers(layer).items():
                part.weight.copy_(how.pruned(part.weight, grams[name]))
            read = [(_hidden(layer(hidden, **extra[number])), extra) for hidden, extra in read]


def _first_inputs(
    model: Any, layers: Iterable[nn.Module], tokens: Int[Tensor, " T"]
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return the hidden states that the first layer reads [1, T, D], and the other arguments of each layer."""
    first: list[Tensor] = []
    extra: list[dict[str, Any]] = []

    def see(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        named = dict(named)
        hidden = given[0] if given else named.pop("hidden_states")
        first.append(hidden)
        extra.append(named)

    hooks = [layer.register_forward_pre_hook(see, with_kwargs=True) for layer in layers]
    try:
        hidden_behind(model, tokens[None])
    finally:
        for hook in hooks:
            hook.remove()
    return first[0], extra


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _grams(parts: dict[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Collect X'X of the inputs of linear layers, by name, while the layers are called."""
    grams = {
        name: torch.zeros(part.in_features, part.in_features, device=part.weight.device) for name, part in parts.items()
    }

    def adder(name: str) -> Any:
        def add(part: nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs = given[0].flatten(0, -2).float()
            with torch.autocast(inputs.device.type, enabled=False):
                grams[name] += inputs.T @ inputs

        return add

    hooks = [part.register_forward_pre_hook(adder(name)) for name, part in parts.items()]
    try:
        yield grams
    finally:
        for hook in hooks:
            hook.remove()


def sparsity(layer: nn.Module) -> float:
    """Return the share of zeros among the weights of the linear layers within a layer."""
    weights = [part.weight for part in linear_layers(layer).values()]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def macs_per_token(model: Any, head: int, sparse: bool = False) -> int:
    """Count the multiply-accumulate operations of the linear layers of one token, from their shapes.

    The products of attention with earlier tokens, which no pruning changes, are left out. head: the weights of the head.
    sparse: a weight of zero costs nothing.
    """
    weights = [part.weight for part in linear_layers(decoder_layers(model)).values()]
    return head + sum(int((weight != 0).sum()) if sparse else weight.numel() for weight in weights)
