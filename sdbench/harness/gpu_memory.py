"""GPU memory of a run: the estimate before it, and the peak that torch's allocator saw while arms decoded.

The estimate (`sdbench.models.memory`) covers weights, slots and branches, and those of a draft in a process of its own. The peak is
of this process. It includes activations, workspaces and captured graphs, but neither CUDA's own memory nor that other process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sdbench.harness.plan import Plan, memory
from sdbench.models.memory import RESERVED_BYTES


class PeakMemory:
    """The most bytes that were allocated on each CUDA device of `devices` while something was `watched`; others have none."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self.bytes = {device: 0 for device in devices if device.type == "cuda"}

    @contextmanager
    def watched(self) -> Iterator[None]:
        for device in self.bytes:
            torch.cuda.reset_peak_memory_stats(device)
        yield
        for device, before in self.bytes.items():
            self.bytes[device] = max(before, torch.cuda.max_memory_allocated(device))

    def beside(self, plan: Plan, before: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int | None]]]:
        """`memory`, where there is a CUDA device: by device `predicted_bytes` and `peak_bytes`.

        Predicted is None where a model's size is not known. before: what an earlier part of the run had found.
        """
        if not self.bytes:
            return {}
        needed = {device.device: device.needed for device in memory(plan.config, plan.slots, plan.specs).devices}
        found = {}
        for device, peak in self.bytes.items():
            earlier = (before.get(str(device)) or {}).get("peak_bytes", 0)
            whole = needed.get(str(device))
            predicted = None if whole is None else whole - RESERVED_BYTES
            found[str(device)] = {"predicted_bytes": predicted, "peak_bytes": max(peak, earlier)}
        return {"memory": found}
