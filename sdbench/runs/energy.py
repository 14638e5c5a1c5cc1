"""Read the energy that this machine has used, where its counters can be read: processors (RAPL) and NVIDIA GPUs (NVML).

The counters are of whole packages and devices. So a reading includes other work on them, and idle power.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


class Meter:
    """A counter of energy. read: gives joules. wraps: the joules at which it begins again at 0; None: never."""

    def __init__(self, name: str, read: Callable[[], float], wraps: float | None = None) -> None:
        self.name, self.read, self.wraps = name, read, wraps

    def since(self, before: float) -> float:
        """Return the joules since an earlier reading."""
        spent = self.read() - before
        return spent + self.wraps if spent < 0 and self.wraps is not None else spent


class Energy:
    """The joules of some counters together, from its making on. meters: by default, all that this machine has."""

    def __init__(self, meters: list[Meter] | None = None) -> None:
        self._begun = [(meter, meter.read()) for meter in (machine_meters() if meters is None else meters)]

    def spent(self) -> float | None:
        """Return the joules; None if there is no counter."""
        return sum(meter.since(before) for meter, before in self._begun) if self._begun else None


@cache
def machine_meters() -> list[Meter]:
    """Return the counters of this machine that can be read."""
    return [*package_meters(POWERCAP), *gpu_meters()]


def package_meters(folder: Path) -> list[Meter]:
    """Return a counter for each processor package. folder: of the powercap tree of Linux."""
    found = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        if zone.name.count(":") > 1:  # a part of a package
            continue
        with suppress(OSError, ValueError):  # only root reads these files on many machines
            wraps = 1e-6 * int((zone / "max_energy_range_uj").read_text())
            meter = Meter(
                (zone / "name").read_text().strip(),
                lambda zone=zone: 1e-6 * int((zone / "energy_uj").read_text()),
                wraps,
            )
            meter.read()
            found.append(meter)
    return found


def gpu_meters() -> list[Meter]:
    """Return a counter for each NVIDIA GPU that has one."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no package, no driver or no GPU: each raises its own kind
        return []
    return [meter for index, handle in enumerate(handles) if (meter := _gpu_meter(pynvml, index, handle)) is not None]


def _gpu_meter(nvml: Any, index: int, handle: Any) -> Meter | None:
    meter = Meter(f"cuda:{index}", lambda: 1e-3 * nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    try:
        meter.read()
    except Exception:  # older GPUs have no counter
        return None
    return meter
