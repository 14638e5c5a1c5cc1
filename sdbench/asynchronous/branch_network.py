"""SpecBranch's classifier, H-RAD (2506.01979): will the target keep no token, some or all of the next draft?

It reads hidden states of some layers of the target behind the last token that the target has read, and the target's embedding
of the newest token. The paper takes the last four layers. Its sizes are unknown. The files are `model.safetensors` and
`branches.json`. The recipe is `sdbench.training.recipes.branch_classifier`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdbench import validate
from sdbench.errors import InputError
from sdbench.models.network_files import network_files, write_network

SOME, NONE, ALL = 0, 1, 2  # signals; 0 is that of a server without a classifier
SHAPE_FILE = "branches.json"


@dataclass(frozen=True)
class BranchShape:
    """What a network reads, and its sizes. Raises: InputError.

    layers: the hidden states, as numbered by transformers. hidden: the width of each, and of the embedding. widths: of the layers
    between input and output. target, draft: their identities (`sdbench.models.identity`).
    """

    layers: Sequence[int]
    hidden: int
    widths: Sequence[int]
    target: str
    draft: str

    def __post_init__(self) -> None:
        for layer in self.layers:
            validate.whole("layers", layer)
        if not self.layers or sorted(set(self.layers)) != list(self.layers):
            raise InputError(f"layers is {list(self.layers)}; it must list layers in ascending order, each once.")
        for width in (self.hidden, *self.widths):
            validate.whole("widths", width, 1)


class BranchNetwork(nn.Module):
    """Linear layers with ReLU between them, over normalised features. The three outputs are SOME, NONE and ALL."""

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: BranchShape) -> None:
        super().__init__()
        self.shape = shape
        inputs = (len(shape.layers) + 1) * shape.hidden
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise([inputs, *shape.widths, 3]))

    def normalise(self, features: Float[Tensor, "N F"]) -> None:
        """Set the mean and the spread by which features are normalised to those of some places."""
        self.mean.copy_(features.mean(0))
        self.scale.copy_(features.std(0, unbiased=False).clamp(min=1e-3))

    def forward(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N 3"]:
        """Return the logits of the three signals. features: the hidden states side by side, then the embedding."""
        x = (features - self.mean) / self.scale
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)

    @torch.inference_mode()
    def expected(self, hidden: Float[Tensor, "B S"], embedded: Float[Tensor, "B D"]) -> list[int]:
        """Return the most likely signal of each row."""
        if self.mean.device != hidden.device:
            self.to(hidden.device)
        return self(torch.cat([hidden, embedded], -1).float()).argmax(-1).tolist()

    def write(self, folder: Path) -> None:
        """Write the weights and the shape."""
        write_network(folder, self, self.shape, SHAPE_FILE)


def branch_network_files(path: Any) -> list[Path]:
    """Return the files of a trained network. path: its folder, or `pkg://PACKAGE/FOLDER`. Errors: InputError if one is missing."""
    return network_files("proposer.classifier", path, SHAPE_FILE, "`sdbench train recipe=branch_classifier`")


def load_branch_network(path: Any) -> BranchNetwork:
    """Return the network in a folder. Errors: InputError if it cannot be used."""
    weights, described = branch_network_files(path)
    try:
        network = BranchNetwork(BranchShape(**json.loads(described.read_text(encoding="utf-8"))))
        network.load_state_dict(load_file(weights))
    except (ValueError, TypeError, InputError, SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"proposer.classifier: {path} cannot be read ({reason}): train the network again.") from error
    return network.eval().requires_grad_(False)
