"""What a run takes of its GPUs' memory: reckoned beforehand, and as torch's allocator saw it while arms decoded.

Reckoned are weights, slots and trees (`sdbench.lm.fit`). The peak holds all that this process has there, activations and the
memory of captured graphs too, but not what CUDA itself takes, nor the slots of a draft's own process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from sdbench.harness.plan import Plan, memory


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

    def beside(self, plan: Plan) -> dict[str, dict[str, int | None]]:
        """By device: `predicted_bytes` (None where a model's size is not known) and `peak_bytes`."""
        if not self.bytes:
            return {}
        parts: dict[str, list[int | None]] = {}
        for role in memory(plan.config, plan.slots).roles:
            parts.setdefault(plan.devices[role.role], []).extend((role.weight_bytes, role.cache_bytes))
        known = {device: [part for part in held if part is not None] for device, held in parts.items()}
        predicted = {device: sum(held) if held == parts[device] else None for device, held in known.items()}
        return {
            str(device): {"predicted_bytes": predicted.get(str(device)), "peak_bytes": peak}
            for device, peak in self.bytes.items()
        }
