"""Reference forwards: the model time that an arm's wall time is compared with.

A reference forward has the shape of a step that a decoder ran. In eager mode it is the model's own forward with transformers'
`DynamicCache`, called as users of transformers call it. In the modes `compile` and `cudagraph` it is the program of the step. A
step of a loop counts as its even share of the loop, draws included.

After each arm's part of a block, the run times a few reference forwards. The models take turns, in the proportion of their steps.
So a slow machine, or a full cache, slows steps and reference forwards alike. `model_time_fraction` is the time of the
reference forwards of all steps divided by the wall time.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import zip_longest
from time import perf_counter
from typing import Any

import torch
from transformers import DynamicCache

from sdbench.device import synchronise
from sdbench.lm.diffusion import DiffusionModel
from sdbench.lm.model import LanguageModel
from sdbench.lm.transformer import Transformer
from sdbench.models.skeleton import attention_kinds, cache_argument, is_recurrent

GRID = 64  # contexts are timed at multiples of this many tokens; metrics interpolate between them
AT_ONCE = 6  # timings after an arm's part of a block; their median is the machine's pace at that time
CACHE_BYTES = 512 * 2**20  # of DynamicCaches that are kept for the next block; the others are made again each time

_Shape = tuple[str, int, int, int, int]  # role, rows, tokens, context, loop


class ReferenceForwards:
    """Times reference forwards of the shapes that the blocks of a run used."""

    def __init__(self, models: Mapping[str, LanguageModel]) -> None:
        self.models = models
        self.timed: dict[_Shape, int] = {}  # the number of timings
        self.steps: dict[_Shape, float] = {}  # the number of steps; a loop counts once, because it is timed as a whole
        self.caches: dict[tuple[str, int, int], DynamicCache] = {}

    def see(self, steps: list[dict[str, Any]]) -> None:
        """Note the shapes of a block's steps, except prefill and steps that ran while the verifier worked."""
        for step in steps:
            if step["kind"] != "prefill" and not step.get("concurrent"):
                base = max(GRID, (step["context"] - step["tokens"]) // GRID * GRID)
                cached = not isinstance(self.models[step["role"]], DiffusionModel)
                for context in (base, base + GRID) if cached else (0,):
                    loop = step.get("loop") or 1
                    shape = (step["role"], step["rows"], step["tokens"], context, loop)
                    self.timed.setdefault(shape, 0)
                    self.steps[shape] = self.steps.get(shape, 0) + 1 / loop

    @torch.inference_mode()
    def time(self) -> list[dict[str, Any]]:
        """Time some of the shapes. Returns rows of the table `bare`."""
        rows = []
        for shape in _in_turn([self._due() for _ in range(AT_ONCE if self.timed else 0)]):
            role, batch, tokens, context, loop = shape
            seconds = self._forward(role, batch, tokens, context, loop)
            if seconds is not None:
                row = {"role": role, "rows": batch, "tokens": tokens, "context": context + tokens, "seconds": seconds}
                rows.append({**row, "loop": loop} if loop > 1 else row)
            else:
                self.steps[shape] = 0  # it cannot be timed, so it is not due again soon
        if any(model.device.type == "cuda" for model in self.models.values()):
            self.caches.clear()  # a GPU makes them again quickly, and its memory belongs to the run
        return rows

    def _due(self) -> _Shape:
        """Choose the next shape: first those without a timing, the most frequent first; then in proportion to the steps."""
        shape = min(self.timed, key=lambda one: (self.timed[one] > 0, -self.steps[one] / (self.timed[one] + 1)))
        self.timed[shape] += 1
        return shape

    def _forward(self, role: str, batch: int, tokens: int, context: int, loop: int) -> float | None:
        """Time one reference forward, in seconds. Returns None if the shape does not fit the model or has no program."""
        model = self.models[role]
        if isinstance(model, DiffusionModel):
            return _without_cache(model, batch, tokens)
        if not isinstance(model, Transformer):
            raise TypeError(f"{role} is no transformers model, so its own forward cannot be timed")
        if context + tokens > model.max_positions:
            return None
        if model.execution.name != "eager":
            return self._program(model, batch, tokens, context, loop)
        cache, states = self._cache(model, batch, context), is_recurrent(model.config)
        if states:  # a recurrent state cannot be cropped
            cache = copy.deepcopy(cache)
        new = torch.ones(batch, tokens, dtype=torch.long, device=model.device)
        named = _named(model, cache)
        synchronise(model.device)
        begun = perf_counter()
        model.model(input_ids=new, use_cache=True, logits_to_keep=tokens, **named)
        synchronise(model.device)
        seconds = perf_counter() - begun
        if not states:
            cache.crop(-tokens)
        return seconds

    def _cache(self, model: Transformer, batch: int, context: int) -> DynamicCache:
        """Return a DynamicCache that holds `context` tokens in each row."""
        key = (model.name, batch, context)
        if key not in self.caches:
            prompt = torch.arange(context, device=model.device).remainder(model.ids.width).expand(batch, -1)
            # Made without the config, so that every layer keeps all tokens. Then `crop` undoes a forward exactly.
            cache = DynamicCache(config=model.config) if is_recurrent(model.config) else DynamicCache()
            model.model(input_ids=prompt, use_cache=True, logits_to_keep=1, **_named(model, cache))
            while self.caches and sum(map(_bytes, self.caches.values())) + _bytes(cache) > CACHE_BYTES:
                del self.caches[next(iter(self.caches))]
            self.caches[key] = cache
        return self.caches[key]

    def _program(self, model: Transformer, batch: int, tokens: int, context: int, loop: int) -> float | None:
        """Time one step of the program of a shape. Returns None if there is none, or if the KV cache is too short."""
        inputs = model.inputs_for(batch, tokens, context, loop)
        if inputs is None:
            return None
        synchronise(model.device)
        begun = perf_counter()
        if model.execution.run(model, inputs) is None:
            return None
        synchronise(model.device)
        return (perf_counter() - begun) / loop


def _named(model: Transformer, cache: DynamicCache) -> dict[str, DynamicCache]:
    """Return a cache under the name that the model's class has for it."""
    return {cache_argument(attention_kinds(model.config)): cache}


def _without_cache(model: DiffusionModel, batch: int, tokens: int) -> float:
    """Time one forward of a masked diffusion model over whole texts, in seconds."""
    texts = torch.full((batch, tokens), model.mask_token, device=model.device)
    lengths = torch.full((batch,), tokens, device=model.device)
    synchronise(model.device)
    begun = perf_counter()
    model.predict(texts, lengths, lengths[:1] - 1)
    synchronise(model.device)
    return perf_counter() - begun


def _in_turn(shapes: list[_Shape]) -> list[_Shape]:
    """Order the shapes so that the models take turns, as in a round.

    A model that ran just before would find its weights in the processor's caches.
    """
    by_role: dict[str, list[_Shape]] = {}
    for shape in shapes:
        by_role.setdefault(shape[0], []).append(shape)
    return [shape for turn in zip_longest(*by_role.values()) for shape in turn if shape is not None]


def _bytes(cache: DynamicCache) -> int:
    held = [getattr(layer, side, None) for layer in cache.layers for side in ("keys", "values")]
    return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)
