"""A run's memory on its GPUs, as it is said (what the allocator does is for the GPU tests)."""

from types import SimpleNamespace

import torch

from sdbench.harness import gpu_memory
from sdbench.models.memory import RESERVED_BYTES, DeviceMemory, Fit


def test_without_a_gpu_nothing_is_said():
    watch = gpu_memory.PeakMemory([torch.device("cpu")])
    with watch.watched():
        pass
    assert watch.beside(SimpleNamespace(), {}) == {}


def test_what_was_reckoned_stands_beside_the_highest_peak(monkeypatch):
    devices = (DeviceMemory("cuda:0", RESERVED_BYTES + 170, None), DeviceMemory("cuda:1", None, None))
    monkeypatch.setattr(gpu_memory, "memory", lambda config, slots, specs: Fit((), devices))
    watch = gpu_memory.PeakMemory([torch.device("cuda:0"), torch.device("cuda:1")])
    watch.bytes = {torch.device("cuda:0"): 180, torch.device("cuda:1"): 70}
    before = {"cuda:0": {"predicted_bytes": 170, "peak_bytes": 190}}
    assert watch.beside(SimpleNamespace(config={}, slots=8, specs={}), before) == {
        "memory": {
            "cuda:0": {"predicted_bytes": 170, "peak_bytes": 190},
            "cuda:1": {"predicted_bytes": None, "peak_bytes": 70},
        }
    }
