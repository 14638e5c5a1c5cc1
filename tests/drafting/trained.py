"""Networks of length policies, for tests: they follow the probability of the drafted token, and other features a little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdbench.drafting.lengths.acceptance_network import AcceptanceNetwork, NetworkShape

SLOPE = 8.0


def written(folder: Path, policy: str = "decision_model", hidden: int = 0, draft: str = "some draft") -> str:
    """Write a network of one layer. hidden: the width of the hidden state, 0 if it is not read. Returns the folder."""
    features = ("token", "entropy", "top", "depth", *(["hidden"] if hidden else []))
    block = 2 if policy == "pacer" else 1
    shape = NetworkShape(policy, features, 4, block, (), hidden, draft)
    network = AcceptanceNetwork(shape)
    generator = torch.Generator().manual_seed(0)
    layer: Any = network.layers[0]
    weight = 0.2 * torch.randn(layer.weight.shape, generator=generator)
    for place in range(block):
        weight[0, place * shape.width] = SLOPE
    if block > 1:
        weight[0, -block:] = -SLOPE / 2
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.fill_(0.0 if block > 1 else -SLOPE / 2)
    network.write(folder)
    return str(folder)
