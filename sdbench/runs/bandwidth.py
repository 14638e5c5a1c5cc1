"""Measure how fast a device reads its memory.

A step of decoding reads all weights for few tokens, so this speed is its limit. `sdbench.analysis.metrics.bandwidth` says how near
a run comes to it.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter

import torch

from sdbench.device import synchronise

BYTES = 2**29  # far more than the caches of a processor hold
_REPEATS = 5


@cache
def read_bandwidth(device: str, threads: int) -> float:
    """Return the bytes per second at which a device sums a large array, the best of some trials.

    threads: of torch on a CPU, as they are set now; they are the key of the cached result.
    """
    place = torch.device(device)
    numbers = torch.ones(BYTES // 4, device=place)
    best = float("inf")
    for _ in range(_REPEATS):
        synchronise(place)
        begun = perf_counter()
        numbers.sum()
        synchronise(place)
        best = min(best, perf_counter() - begun)
    return BYTES / best
