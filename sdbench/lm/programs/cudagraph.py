"""Steps captured in CUDA graphs: one launch in place of hundreds.

A graph reads and writes the tensors that it was captured with. So each program copies the inputs of a step into input tensors of
its own. It works on the KV cache that existed at capture. The number of slots that attention reads is rounded up,
so that few graphs are enough. The graphs of a model run one after the other and share working memory. Their outputs are copied,
because the next graph overwrites them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.lm.kv_cache import KVCache
from sdbench.lm.programs.execution import Program, Programs
from sdbench.lm.programs.traced import Inputs, Traceable, flat, parted

_WARM_UPS = 3  # runs before capture, in which libraries allocate


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

    def sized(self, tokens: Int[Tensor, "B L"], slots: int) -> Int[Tensor, "B N"]:
        return pad(tokens, (0, slots - tokens.shape[1]))  # the same size in every run

    def shape(self, pool: KVCache, inputs: Inputs) -> tuple[Any, ...]:
        if pool is not self._pool:  # graphs captured over another cache are useless
            self._programs.clear()
            self._examples.clear()
            self._pool, self._memory = pool, None  # frees the memory of these graphs
        return *super().shape(pool, inputs), inputs.over[0].shape[-1]

    @torch.inference_mode()  # as when the cache's tensors were made
    def freeze(self, lm: Traceable | None) -> None:
        if lm is not None and not self.frozen:
            # A prompt longer than those of the warm-up needs graphs over more slots: capture them now.
            present = lm.taps
            for taps in self.tap_sets:
                lm.taps = taps
                for given in self.known(lm):
                    for attend_len in range(self.granule, lm.pool.slots + self.granule, self.granule):
                        self.run(lm, given.within(min(attend_len, lm.pool.slots)))
            lm.taps = present
        super().freeze(lm)

    def make(self, lm: Traceable, inputs: Inputs) -> Program:
        self.made += 1
        with torch.cuda.device(lm.device):  # captures and memory handles belong to the current device
            # All captures use one stream, because libraries keep a workspace for each stream.
            self._aside = self._aside or torch.cuda.Stream(lm.device)
            self._memory = self._memory or torch.cuda.graph_pool_handle()
            return _Captured(lm, inputs, self._aside, self._memory)


class _Captured:
    """A step captured on the stream `aside`, in `memory`."""

    def __init__(self, lm: Traceable, inputs: Inputs, aside: torch.cuda.Stream, memory: Any) -> None:
        step, (own, over, pools) = inputs.module(lm), parted(lm, inputs, flat(lm, inputs))
        self._inputs = [tensor.clone() for tensor in (*own, *over)]
        arguments = (self._inputs[: len(own)], self._inputs[len(own) :], pools)
        aside.wait_stream(torch.cuda.current_stream(lm.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                step(*arguments)
        torch.cuda.current_stream(lm.device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory, stream=aside):
            self._outputs = step(*arguments)

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        for own, given in zip(self._inputs, inputs, strict=False):  # the cache's tensors follow; they need no copy
            own.copy_(given)
        self._graph.replay()
        return [output.clone() for output in self._outputs]
