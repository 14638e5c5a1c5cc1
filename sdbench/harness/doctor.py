"""List the hardware and packages of this machine, and the families and tasks that can run on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.harness.config import members
from sdbench.hub_access import ask
from sdbench.models.family import check_files
from sdbench.models.spec import family_specs
from sdbench.runs.environment import environment


def examine() -> str:
    """Return a few lines about the machine, then a line for each family and each task."""
    ask()  # the answer of the hub comes while the packages are imported
    machine = environment()
    cpu, gpus = machine["cpu"], machine["gpus"]
    lines = [
        f"python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in machine["packages"].items()),
        f"CPU: {cpu['model']}, {cpu['usable_cores']} cores; memory {(machine['ram_bytes'] or 0) / 1e9:.0f} GB",
        "GPU: " + (", ".join(gpu["name"] for gpu in gpus) or "none"),
        f"SDBENCH_DATA: {'set' if os.environ.get('SDBENCH_DATA') else 'not set (real prompts come from the hub)'}",
        "",
        "families:",
    ]
    for name, family in members("models").items():
        lines.append(f"  {name}: {_tried(lambda family=family: _check_family(family))}")
    lines += ["", "tasks:"]
    for name, task in members("tasks").items():
        lines.append(f"  {name}: {_tried(lambda task=task: _check_task(task))}")
    return "\n".join(lines)


def _check_family(family: Mapping[str, Any]) -> None:
    """Look for the files of every member. They are not read, because that takes seconds. Raises: InputError."""
    for spec in family_specs(family).values():
        check_files(spec)


def _check_task(config: dict[str, Any]) -> None:
    """Read one prompt, or only the source of the prompts if the task can check that faster. Raises: InputError."""
    task = build(config, {}, "tasks")
    getattr(task, "check_source", lambda: task.prompts(1))()


def _tried(check: Callable[[], Any]) -> str:
    """Return "ready", or "no" with the reason if the check raises InputError."""
    try:
        check()
    except InputError as error:
        return f"no. {error}"
    return "ready"
