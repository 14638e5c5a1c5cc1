"""A small network that predicts whether the target keeps drafted tokens. `decision_model` and `pacer` ask it how far to draft.

It reads, for each drafted token, features of the step that drew it:

    entropy   of the draft's law at temperature 1, in nats
    top       the largest probabilities of that law
    token     the probability of the drafted token there
    depth     log(1 + the number of drafted tokens before it)
    hidden    the draft's last hidden state, from which the law was computed

A network of blocks reads the tokens of a block up to the one in question, and so predicts P(kept | the earlier ones are kept).
The files are `model.safetensors` and `policy.json`. The recipe is `sdbench.training.recipes.length_policy`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdbench import validate
from sdbench.errors import InputError
from sdbench.models.network_files import network_files, write_network
from sdbench.sampling import Scored

SHAPE_FILE = "policy.json"
FEATURES = ("entropy", "top", "token", "depth", "hidden")


@dataclass(frozen=True)
class NetworkShape:
    """What a network reads, and its sizes. Raises: InputError.

    policy: the length policy that it is for. features: of `FEATURES`, without repetition. top: how many probabilities `top` has.
    block: tokens of a block. widths: of the layers between input and output. hidden: the width of the draft's hidden state, 0 if it
    is not read. draft: the identity of the draft (`sdbench.models.identity`).
    """

    policy: str
    features: Sequence[str]
    top: int
    block: int
    widths: Sequence[int]
    hidden: int
    draft: str

    def __post_init__(self) -> None:
        for name in self.features:
            validate.choice("features", name, FEATURES)
        if not self.features or len(set(self.features)) < len(self.features):
            raise InputError(f"features is {list(self.features)}; it must name at least one feature, and each once.")
        validate.whole("top", self.top, 1)
        validate.whole("block", self.block, 1)
        for width in self.widths:
            validate.whole("widths", width, 1)
        validate.whole("hidden", self.hidden, int("hidden" in self.features))

    @property
    def width(self) -> int:
        """Return the number of features of a token."""
        sizes = {"top": self.top, "hidden": self.hidden}
        return sum(sizes.get(name, 1) for name in self.features)


class AcceptanceNetwork(nn.Module):
    """Predict whether drafted tokens are kept: linear layers with ReLU between them, and a sigmoid."""

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.width))
        self.register_buffer("scale", torch.ones(shape.width))
        marks = shape.block if shape.block > 1 else 0  # which places of the block are filled
        sizes = [shape.block * shape.width + marks, *shape.widths, 1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def features(
        self,
        scored: Scored,
        token: Int[Tensor, " B"],
        depth: int | np.ndarray,
        hidden: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "B F"]:
        """Return the features of drafted tokens. scored: [B, V], what they were drawn from. depth: of all rows, or [B]."""
        plain, found = scored.plain, []
        for name in self.shape.features:
            if name == "entropy":
                found.append(torch.special.entr(plain).sum(-1, keepdim=True))
            elif name == "top":
                best = plain.topk(min(self.shape.top, plain.shape[-1]), -1).values
                found.append(nn.functional.pad(best, (0, self.shape.top - best.shape[-1])))
            elif name == "token":
                found.append(plain.gather(-1, token[:, None]))
            elif name == "depth":
                column = torch.from_numpy(np.broadcast_to(np.log1p(depth), len(token)).copy())
                found.append(column[:, None].to(plain))
            elif hidden is not None and hidden.shape[-1] == self.shape.hidden:
                found.append(hidden)
            else:
                raise InputError(
                    f"The network reads hidden states of width {self.shape.hidden}, which this draft does not give."
                )
        return torch.cat([one.float() for one in found], -1)

    def normalise(self, features: Float[Tensor, "N F"]) -> None:
        """Set the mean and the spread by which features are normalised to those of some tokens."""
        self.mean.copy_(features.mean(0))
        self.scale.copy_(features.std(0, unbiased=False).clamp(min=1e-3))

    def logits(self, block: Float[Tensor, "N b F"], place: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the logits of P(kept) of the token at a place of each block. What stands behind the place is not read."""
        filled = (torch.arange(self.shape.block, device=block.device) <= place[:, None]).float()
        x = (((block - self.mean) / self.scale) * filled[..., None]).flatten(1)
        if self.shape.block > 1:
            x = torch.cat([x, filled], -1)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)[:, 0]

    @torch.inference_mode()
    def kept(self, block: Float[Tensor, "N b F"]) -> Float[Tensor, "N b"]:
        """Return P(kept | the earlier tokens of the block are kept) of each token."""
        if self.mean.device != block.device:
            self.to(block.device)
        places = [torch.full((len(block),), place, device=block.device) for place in range(self.shape.block)]
        return torch.stack([self.logits(block, place) for place in places], 1).sigmoid()

    def write(self, folder: Path) -> None:
        """Write the weights and the shape."""
        write_network(folder, self, self.shape, SHAPE_FILE)


def files_of(path: Any) -> list[Path]:
    """Return the files of a trained policy. path: its folder, or `pkg://PACKAGE/FOLDER`. Errors: InputError if one is missing."""
    return network_files("lengths.weights", path, SHAPE_FILE, "`sdbench train recipe=decision_model` or recipe=pacer")


def load_network(path: Any, policy: str) -> AcceptanceNetwork:
    """Return the network in a folder. policy: the length policy that asks. Errors: InputError if it cannot be used."""
    weights, described = files_of(path)
    try:
        shape = NetworkShape(**json.loads(described.read_text(encoding="utf-8")))
        network = AcceptanceNetwork(shape)
    except (ValueError, TypeError, InputError) as error:
        raise InputError(f"lengths.weights: {described} cannot be read ({error}): train the policy again.") from error
    if shape.policy != policy:
        raise InputError(
            f"lengths.weights: {path} holds a network for lengths={shape.policy}, and this is lengths={policy}."
        )
    try:
        held = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise InputError(f"lengths.weights: {weights} cannot be read ({error}): train the policy again.") from error
    wanted = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in held.items()}
    if found != wanted:
        odd = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise InputError(
            f"lengths.weights: {odd[0]} has the sizes {found.get(odd[0])} in {weights}, and {described} asks for "
            f"{wanted.get(odd[0])}: take both files of one training."
        )
    network.load_state_dict(held)
    return network.eval().requires_grad_(False)
