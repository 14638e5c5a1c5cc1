"""Devices: wait for a GPU, move numbers to it, and pin a process to CPU cores.

A GPU queues its work while the host goes on. So the host waits where it times, and nowhere else.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still owes; the CPU never owes anything."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def upload(numbers: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The host's numbers on a device: on a GPU without waiting for what is queued there, as `Tensor.to` by itself would.

    CUDA takes its own copy before this returns, so `numbers` may be changed. On the CPU it is the same memory.
    """
    return put(torch.from_numpy(numbers), device)


def at_hand(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at without waiting. A tensor of a kind of its own (shared out, or traced) has none."""
    return type(tensor) is Tensor and tensor.is_cpu


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """The same of a tensor of the host. (Metal reads the host's memory later, so there it is waited for.)"""
    if device.type == "cpu" and tensor.is_cpu:
        return tensor
    return tensor.to(device, non_blocking=device.type == "cuda")


@cache
def usable() -> tuple[int, ...]:
    """The cores that this process might use when this was first asked: before anything was pinned."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def pin(cores: tuple[int, ...]) -> None:
    """Run this process on these cores only; with none given, or where that cannot be done, leave it."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
