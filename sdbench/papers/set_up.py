"""Compare the set-up that a published figure belongs to with the set-up of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from sdbench.analysis.results import Results

ENGINE = "sdbench"
_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True, eq=False)
class SetUp:
    """Models, hardware, dtype, task and engine of a published figure. A field that the paper does not state is None or empty.

    models: by role, the name of the weights; hardware: the device's name; `*` in a name stands for any text. devices: how many of
    them. dtype: of the weights. tasks: their names, or parts of them. engine: the program that decoded.
    """

    name: str
    models: Mapping[str, str] = field(default_factory=dict)
    hardware: str | None = None
    devices: int | None = None
    dtype: str | None = None
    tasks: tuple[str, ...] = ()
    engine: str | None = None

    def __str__(self) -> str:
        devices = f"{self.devices} x {self.hardware}" if self.devices else self.hardware
        parts = [", ".join(self.models.values()), devices, self.dtype, ", ".join(self.tasks), self.engine]
        return "; ".join(part.replace("*", "") for part in parts if part)

    def differences(self, run: Results) -> list[str]:
        """List the stated fields in which a run differs: models, hardware, dtype, task, engine. Empty on the same set-up."""
        config, machine = run.config, run.environment
        roles = config["models"]
        names = {role: str((roles.get(role) or {}).get("path") or "").rpartition("/")[2] for role in self.models}
        same = {
            "models": all(_named(names[role], wanted) for role, wanted in self.models.items()),
            "hardware": self.hardware is None or self._on(machine),
            "dtype": self.dtype is None or all(_dtype(config, role) == self.dtype for role in self.models),
            "task": not self.tasks or any(_within(task, _task(config)) for task in self.tasks),
            "engine": self.engine is None or self.engine == ENGINE,
        }
        return [name for name, alike in same.items() if not alike]

    def _on(self, machine: Mapping[str, Any]) -> bool:
        gpus = [gpu["name"] for gpu in machine.get("gpus") or []]
        named = gpus or [machine["cpu"]["model"]]
        alike = [name for name in named if _named(name, str(self.hardware))]
        return bool(alike) and len(alike) == len(named) and self.devices in (None, len(alike))


def set_ups_of(runs: Iterable[Results]) -> list[str]:
    """Describe the set-ups of runs: models, hardware, dtype, tasks, engine. Runs that differ in the task alone share one."""
    tasks: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        config = run.config
        models = ", ".join(_short(role["path"]) for role in config["models"].values() if role.get("path"))
        gpus = [gpu["name"] for gpu in run.environment.get("gpus") or []]
        hardware = ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
        dtype = str((config.get("hardware") or {}).get("dtype") or "")
        tasks.setdefault((models, hardware or run.environment["cpu"]["model"], dtype), []).append(_task(config))
    return [
        "; ".join(part for part in (*common, ", ".join(filter(None, dict.fromkeys(names))), ENGINE) if part)
        for common, names in tasks.items()
    ]


def _named(name: str, wanted: str) -> bool:
    return fnmatch(name.lower(), wanted.lower())


def _within(wanted: str, name: str) -> bool:
    """Whether a name contains another, whatever the case and the separators."""
    return _plain(wanted) in _plain(name)


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def _short(path: str) -> str:
    return path.removeprefix("pkg://sdbench/assets/").removeprefix("pkg://")


def _dtype(config: Mapping[str, Any], role: str) -> str | None:
    """The dtype of a role's weights; quantized weights have another one."""
    model = config["models"].get(role) or {}
    if model.get("quantization"):
        return str(model["quantization"])
    dtype = model.get("dtype") or (config.get("hardware") or {}).get("dtype")
    return _NAMES.get(str(dtype), dtype)


def _task(config: Mapping[str, Any]) -> str:
    """What names the task: the class, lm-eval's name, the file."""
    task = config.get("tasks") or {}
    kind = str(task.get("_target_") or "").rpartition(".")[2]
    return " ".join(str(part) for part in (kind, task.get("task"), task.get("path")) if part)
