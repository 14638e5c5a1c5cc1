"""Steps captured in CUDA graphs: one launch in place of hundreds.

A graph reads and writes the tensors that it was captured with: so each program has inputs of its own, into which a step's are
copied, and works on the pool that was there. The number of slots that a step attends over is rounded up, so that few graphs do.
The graphs of a model take turns, so they share the memory that they work in; what one gives out is copied before the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.lm.kv_cache import KVCache
from sdbench.lm.programs.base import Inputs, Program, Programs, flat, parted

if TYPE_CHECKING:
    from sdbench.lm.model import LanguageModel
    from sdbench.lm.transformer import Transformer

_REHEARSALS = 3  # before capture: libraries allocate at their first calls


class CudaGraph(Programs):
    """Programs made by capturing the eager step."""

    name = "cudagraph"

    def __init__(self) -> None:
        super().__init__()
        self._pool: KVCache | None = None
        self._aside: torch.cuda.Stream | None = None
        self._memory: Any = None

    def attend_len(self, needed: int, slots: int) -> int:
        return min(-(-needed // self.granule) * self.granule, slots)

    def sized(self, tokens: Int[Tensor, "B N"], slots: int) -> Int[Tensor, "B N"]:
        return pad(tokens, (0, slots - tokens.shape[1]))  # as many in every run

    def shape(self, pool: KVCache, inputs: Inputs) -> tuple[Any, ...]:
        if pool is not self._pool:  # what was captured over another pool is of no use any more
            self._programs.clear()
            self._examples.clear()
            self._pool, self._memory = pool, None  # memory that no graph works in any more is gone
        return *super().shape(pool, inputs), inputs.over[0].shape[-1]

    @torch.inference_mode()  # in which the pool's tensors were made
    def freeze(self, lm: LanguageModel) -> None:
        model = cast("Transformer", lm)
        # What a prompt longer than those of the warm-up will ask for is captured now.
        for given in [] if self.frozen else self.known(model):
            for attend_len in range(self.granule, model.pool.slots + self.granule, self.granule):
                self.run(model, given.within(min(attend_len, model.pool.slots)))
        super().freeze(lm)

    def make(self, lm: Transformer, inputs: Inputs) -> Program:
        self.made += 1
        with torch.cuda.device(lm.device):  # captures, and handles to memory, are the current device's
            # One stream for all: libraries keep a workspace for each.
            self._aside = self._aside or torch.cuda.Stream(lm.device)
            self._memory = self._memory or torch.cuda.graph_pool_handle()
            return _Captured(lm, inputs, self._aside, self._memory)


class _Captured:
    """A step captured on the stream `aside`, in `memory`. Its first tensors are its own; the pool's are the pool's."""

    def __init__(self, lm: Transformer, inputs: Inputs, aside: torch.cuda.Stream, memory: Any) -> None:
        step, (own, over, pools) = inputs.module(lm), parted(lm, inputs, flat(lm, inputs))
        self._inputs = [tensor.clone() for tensor in (*own, *over)]
        arguments = (self._inputs[: len(own)], self._inputs[len(own) :], pools)
        aside.wait_stream(torch.cuda.current_stream(lm.device))
        with torch.cuda.stream(aside):
            for _ in range(_REHEARSALS):
                step(*arguments)
        torch.cuda.current_stream(lm.device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory, stream=aside):
            self._outputs = step(*arguments)

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        for own, given in zip(self._inputs, inputs, strict=False):  # the pool's tensors, behind them, are there already
            own.copy_(given)
        self._graph.replay()
        return [output.clone() for output in self._outputs]
