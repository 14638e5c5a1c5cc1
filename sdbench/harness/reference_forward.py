"""Bare forwards: the floor that a decode loop is measured against.

A bare forward is the model's own, with its own cache (transformers' DynamicCache) and ready inputs, of the same shape as a step
that a decoder made, its modules called as a step calls them (`sdbench.lm.module_replay`). In a compiled or captured mode it is the
program itself; a step of a loop is its even share of the loop, in which tokens are drawn too. They are timed in the same run, a
few behind each arm's part of a block and the models in turn, each as often as it is called, so that whatever slows the machine, or
fills its caches, does so on both sides. `model_time_fraction` is their sum along a run over its wall time.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from time import perf_counter
from typing import Any

import torch
from transformers import DynamicCache

from sdbench.device import synchronise
from sdbench.lm.model import LanguageModel
from sdbench.lm.transformer import Transformer

GRID = 64  # contexts are timed at multiples of this many tokens; metrics interpolate between them
AT_ONCE = 6  # timings behind an arm's part of a block: their median is the machine's pace there
CACHE_BYTES = 512 * 2**20  # of the models' own caches, kept for the next block; more are made anew each time


_Shape = tuple[str, int, int, int, int]  # role, rows, tokens, context, loop


class ReferenceForwards:
    """Times bare forwards of the shapes that the blocks of a run have used."""

    def __init__(self, models: Mapping[str, LanguageModel]) -> None:
        self.models = models
        self.timed: dict[_Shape, int] = {}  # how often each shape was
        self.steps: dict[_Shape, float] = {}  # how many were made of it; a loop, which is timed as a whole, is one
        self.caches: dict[tuple[str, int, int], DynamicCache] = {}

    def see(self, steps: list[dict[str, Any]]) -> None:
        """Note the shapes of a block's steps, prefill left out and what was done beside the verifier."""
        for step in steps:
            if step["kind"] != "prefill" and not step.get("concurrent"):
                base = max(GRID, (step["context"] - step["tokens"]) // GRID * GRID)
                for context in (base, base + GRID):
                    loop = step.get("loop") or 1
                    shape = (step["role"], step["rows"], step["tokens"], context, loop)
                    self.timed.setdefault(shape, 0)
                    self.steps[shape] = self.steps.get(shape, 0) + 1 / loop

    @torch.inference_mode()
    def time(self) -> list[dict[str, Any]]:
        """Time some shapes: rows of the table BARE."""
        rows = []
        for shape in _in_turn([self._due() for _ in range(AT_ONCE if self.timed else 0)]):
            role, batch, tokens, context, loop = shape
            seconds = self._forward(role, batch, tokens, context, loop)
            if seconds is not None:
                row = {"role": role, "rows": batch, "tokens": tokens, "context": context + tokens, "seconds": seconds}
                rows.append({**row, "loop": loop} if loop > 1 else row)
            else:
                self.steps[shape] = 0  # not to be had
        if any(model.device.type == "cuda" for model in self.models.values()):
            self.caches.clear()  # quickly made anew there, and no part of what a run takes
        return rows

    def _due(self) -> _Shape:
        """The next shape to time: one that was not yet, the most frequent first; then each as often as there are steps of it."""
        shape = min(self.timed, key=lambda one: (self.timed[one] > 0, -self.steps[one] / (self.timed[one] + 1)))
        self.timed[shape] += 1
        return shape

    def _forward(self, role: str, batch: int, tokens: int, context: int, loop: int) -> float | None:
        model = self.models[role]
        if not isinstance(model, Transformer):
            raise TypeError(f"{role} is no transformer: its own forward cannot be timed")
        if context + tokens > model.max_positions:
            return None
        if model.execution.name != "eager":
            return self._program(model, batch, tokens, context, loop)
        cache = self._cache(model, batch, context)
        new = torch.ones(batch, tokens, dtype=torch.long, device=model.device)
        positions = torch.arange(context, context + tokens, device=model.device).expand(batch, -1)
        masks = [mask.expand(batch, -1, -1, -1) for mask in model.band(tokens, context, context + tokens)]
        if not model.forward.settled(tokens) and tokens <= model.slots:
            # Steps of another process are not known here. Between two blocks the slots hold nothing that is needed.
            model.step(new[:1], positions[:1] - context, None, num_logits=tokens, rows=slice(0, 1), attend_len=tokens)
        synchronise(model.device)
        begun = perf_counter()
        model.forward(new, positions, cache, masks, tokens, context + tokens)
        synchronise(model.device)
        seconds = perf_counter() - begun
        cache.crop(-tokens)
        return seconds

    def _cache(self, model: Transformer, batch: int, context: int) -> DynamicCache:
        """The model's own cache with so many tokens in each row."""
        key = (model.name, batch, context)
        if key not in self.caches:
            prompt = torch.arange(context, device=model.device).remainder(model.vocab).expand(batch, -1)
            # Without the config every layer keeps all its tokens, so that `crop` leaves no trace.
            cache = DynamicCache()
            model.model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
            while self.caches and sum(map(_bytes, self.caches.values())) + _bytes(cache) > CACHE_BYTES:
                del self.caches[next(iter(self.caches))]
            self.caches[key] = cache
        return self.caches[key]

    def _program(self, model: Transformer, batch: int, tokens: int, context: int, loop: int) -> float | None:
        """A step of the program of a shape; None where there is none, or where the pool is too short."""
        inputs = model.inputs_for(batch, tokens, context, loop)
        if inputs is None:
            return None
        synchronise(model.device)
        begun = perf_counter()
        if model.execution.run(model, inputs) is None:
            return None
        synchronise(model.device)
        return (perf_counter() - begun) / loop


def _in_turn(shapes: list[_Shape]) -> list[_Shape]:
    """The models in turn, as in a round: a model that has just run would find its weights in the processor's caches."""
    by_role: dict[str, list[_Shape]] = {}
    for shape in shapes:
        by_role.setdefault(shape[0], []).append(shape)
    return [shape for turn in zip_longest(*by_role.values()) for shape in turn if shape is not None]


def _bytes(cache: DynamicCache) -> int:
    held = [getattr(layer, side, None) for layer in cache.layers for side in ("keys", "values")]
    return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)
