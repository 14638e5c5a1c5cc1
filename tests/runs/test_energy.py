"""Energy: counters that wrap, counters that cannot be read, and none at all."""

from types import SimpleNamespace

import pytest

from sdbench.runs import energy
from sdbench.runs.energy import Energy, Meter, package_meters


def zone(folder, name, joules, wraps=1000.0):
    folder = folder / name
    folder.mkdir()
    (folder / "name").write_text("package-0\n")
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text(f"{int(wraps * 1e6)}\n")
    return folder / "energy_uj"


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 990)
    zone(tmp_path, "intel-rapl:0:0", 50)
    (tmp_path / "intel-rapl:2").mkdir()  # cannot be read
    meters = package_meters(tmp_path)
    assert [meter.name for meter in meters] == ["package-0"] * 2
    used = Energy(meters)
    first.write_text("107500000\n")
    second.write_text("2000000\n")  # it began again
    assert used.spent() == pytest.approx(7.5 + 12)


def test_a_machine_without_counters_gives_none():
    assert Energy([]).spent() is None


def test_a_gpu_without_a_counter_is_left_out(monkeypatch):
    def consumed(handle):
        if handle == 1:
            raise RuntimeError("not supported")
        return 3500

    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=consumed,
    )
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    meters = energy.gpu_meters()
    assert [(meter.name, meter.read()) for meter in meters] == [("cuda:0", 3.5)]
    assert Meter("x", lambda: 4.0).since(1.5) == 2.5
