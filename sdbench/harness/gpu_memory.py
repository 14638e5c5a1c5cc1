"""Compare the GPU memory that a run needs by estimate with the peak of torch's allocator while arms decode.

The estimate (`sdbench.models.memory`) covers weights, slots and branches, also those of a draft in another process. The peak is
that of this process. It includes activations, workspaces and captured graphs. It excludes CUDA's own memory and other processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sdbench.harness.plan import Plan, memory
from sdbench.models.memory import RESERVED_BYTES


class PeakMemory:
    """Record the peak of allocated bytes on each CUDA device while `watched` is open. Other devices are not recorded."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self.bytes = {device: 0 for device in devices if device.type == "cuda"}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Include the code of this context in the peak."""
        for device in self.bytes:
            torch.cuda.reset_peak_memory_stats(device)
        yield
        for device, before in self.bytes.items():
            self.bytes[device] = max(before, torch.cuda.max_memory_allocated(device))

    def beside(self, plan: Plan, before: Mapping[str, Any]) -> dict[str, dict[str, dict[str, int | None]]]:
        """Return `{"memory": {device: {"predicted_bytes": n, "peak_bytes": n}}}`, or `{}` without a CUDA device.

        `predicted_bytes` is None if the size of a model is unknown.
        before: the value of `memory` from earlier attempts. A peak is at least the earlier peak.
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
