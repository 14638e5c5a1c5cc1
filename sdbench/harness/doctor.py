"""List the hardware and packages of this machine, and the families and tasks that can run on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sdbench.errors import InputError
from sdbench.harness.build import build
from sdbench.harness.config import choices, compose
from sdbench.harness.plan import specs_of
from sdbench.models.family import check_family
from sdbench.runs.environment import environment

LM_EVAL = "lm_eval/"


def examine() -> str:
    """Return a few lines about the machine, then a line for each family and each task.

    The tasks of lm-eval share one line, because reading one of them takes seconds. `sdbench run --dry-run` reads a single one.
    """
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
    for name in choices("models"):
        config = compose([f"models={name}"])
        lines.append(f"  {name}: {_tried(lambda config=config: check_family(specs_of(config)))}")
    lines += ["", "tasks:"]
    names = choices("tasks")
    for name in (name for name in names if not name.startswith(LM_EVAL)):
        config = compose([f"tasks={name}"])
        lines.append(f"  {name}: {_tried(lambda config=config: build(config['tasks'], {}, 'tasks').prompts(1))}")
    others = ", ".join(name.removeprefix(LM_EVAL) for name in names if name.startswith(LM_EVAL))
    lines.append(f"  {LM_EVAL}{{{others}}}: not read here; `sdbench run tasks={LM_EVAL}NAME --dry-run` reads one")
    return "\n".join(lines)


def _tried(check: Callable[[], Any]) -> str:
    """Return "ready", or "no" with the reason if the check raises InputError."""
    try:
        check()
    except InputError as error:
        return f"no. {error}"
    return "ready"
