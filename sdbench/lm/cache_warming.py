"""What a core does while it waits for another, so that it is not slow afterwards.

A core that has waited, asleep or asking again and again, does its next forward some percent slower: its caches hold the waiting and
no longer the forward. So who waits for another process on the verifier's core rehearses: runs small pieces of the verifier's first
layer, one at a time, on the inputs of a step once made, and looks in between whether the answer is there.

A piece must be short beside what is waited for; of a model whose pieces are longer none is run, and its forwards gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from time import perf_counter
from typing import Any

import torch
from torch import nn

PIECE_SECONDS = 1e-4  # a piece is this long at most
TRIES = 5

Rehearsal = Callable[[], None]


def rehearsal(layer: nn.Module, step: Callable[[], Any]) -> Rehearsal | None:
    """Runs the next piece of `layer` each time it is called; None if all of them are too long.

    step: makes a step of the model that the layer belongs to.
    """
    made: list[tuple[nn.Module, tuple[Any, ...]]] = []
    leaves = [module for module in layer.modules() if not any(module.children())]
    hooks = [leaf.register_forward_pre_hook(lambda module, inputs: made.append((module, inputs))) for leaf in leaves]
    try:
        step()
    finally:
        for hook in hooks:
            hook.remove()
    short = [one for one in made if min(_seconds(*one) for _ in range(TRIES)) <= PIECE_SECONDS]
    if not short:
        return None
    pieces = cycle(short)

    @torch.inference_mode()  # as the step was
    def run() -> None:
        module, inputs = next(pieces)
        module(*inputs)

    return run


def _seconds(module: nn.Module, inputs: tuple[Any, ...]) -> float:
    begun = perf_counter()
    module(*inputs)
    return perf_counter() - begun
