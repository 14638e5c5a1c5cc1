"""A run's memory on its GPUs, as it is said (what the allocator does is for the GPU tests)."""

from types import SimpleNamespace

import torch

from sdbench.harness import peak
from sdbench.lm.fit import RoleMemory


def test_without_a_gpu_nothing_is_said():
    watch = peak.PeakMemory([torch.device("cpu")])
    with watch.watched():
        pass
    assert watch.beside(SimpleNamespace(), {}) == {}


def test_what_was_reckoned_stands_beside_the_highest_peak(monkeypatch):
    devices = {"target": "cuda:0", "qualifier": "cuda:0", "draft": "cuda:1"}
    roles = [RoleMemory(role, "cuda", weights, 10) for role, weights in zip(devices, (100, 50, None), strict=True)]
    monkeypatch.setattr(peak, "memory", lambda config, slots: SimpleNamespace(roles=roles))
    watch = peak.PeakMemory([torch.device("cuda:0"), torch.device("cuda:1")])
    watch.bytes = {torch.device("cuda:0"): 180, torch.device("cuda:1"): 70}
    before = {"cuda:0": {"predicted_bytes": 170, "peak_bytes": 190}}
    assert watch.beside(SimpleNamespace(config={}, slots=8, devices=devices), before) == {
        "memory": {
            "cuda:0": {"predicted_bytes": 170, "peak_bytes": 190},
            "cuda:1": {"predicted_bytes": None, "peak_bytes": 70},
        }
    }
