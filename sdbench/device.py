"""Devices: wait for a GPU, copy numbers to it, and pin a process to CPU cores.

A GPU queues its work while the host goes on. So the host waits only where it measures time or needs a result.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done its queued work. On a CPU nothing is queued."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def upload(numbers: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy numbers of the host to a device, without waiting for the work queued there.

    CUDA makes its own copy before this returns, so `numbers` may change afterwards. On the CPU the tensor shares their memory.
    """
    return put(torch.from_numpy(numbers), device)


def at_hand(tensor: Tensor) -> bool:
    """Return whether the host can read a tensor's values at once. A distributed or traced tensor has none to read."""
    return type(tensor) is Tensor and tensor.is_cpu


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """Do what `upload` does, for a tensor of the host. This waits on Metal, which reads the host's memory later."""
    if device.type == "cpu" and tensor.is_cpu:
        return tensor
    return tensor.to(device, non_blocking=device.type == "cuda")


@cache
def native_bfloat16() -> bool:
    """Return whether this processor has instructions for products in bfloat16. Others emulate them, far slower than float32."""
    return any(held and "bf16" in name for name, held in _capabilities().items())


@cache
def fast_bfloat16_products() -> bool:
    """Return whether this processor computes large products faster in bfloat16 than in float32.

    Matrix units (AMX, and the bfloat16 instructions of ARM) do. AVX-512's own bfloat16 instructions help one step of a decode,
    which reads fewer bytes. They do not help large products: on a Xeon without AMX, a product of 2,048 rows took twice the time
    of float32.
    """
    return any(_capabilities().get(name) for name in ("amx_bf16", "bf16"))


def _capabilities() -> dict[str, Any]:
    """Return what torch knows of this processor; nothing where it cannot tell."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def takes_blocked_weights(dtype: torch.dtype) -> bool:
    """Return whether this processor computes faster with blocked copies of weights of this type (`sdbench.lm.prepacked`)."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and native_bfloat16())


@cache
def usable() -> tuple[int, ...]:
    """Return the cores that this process could use at the first call, before it was pinned. Empty if the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def pin(cores: tuple[int, ...]) -> None:
    """Run this process on these cores only. Without cores, or on a system without pinning, do nothing."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
