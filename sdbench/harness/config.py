"""From words on the command line to a plain, resolved config; Hydra's complaints become one sentence each."""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from sdbench.errors import InputError
from sdbench.harness.simulated_acceptance import KNOB, forced

# The shipped launchers `basic` and `joblib` bear the names of Hydra's own, which then check them: as it should be.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

GROUPS = {
    "models": "family of models",
    "arms": "arm",
    "acceptance": "acceptance rule",
    "tasks": "task",
    "hardware": "hardware profile",
    "tracker": "tracker",
    "experiment": "experiment",
    "latency": "machine's latencies",
}  # each config group, and what one of its members is called


def config_dir() -> Path:
    """The folder `conf`: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def search_path(extra: Path | None = None) -> list[Path]:
    """Folders of configs, besides the bench's own: the user's, and those of installed packages.

    A package offers its configs by an entry point of the group `sdbench.conf`, whose value names the package that holds them.
    """
    installed = [Path(str(resources.files(point.value))) for point in metadata.entry_points(group="sdbench.conf")]
    return [*([extra] if extra else []), *installed]


def choices(group: str, extra: Path | None = None) -> list[str]:
    """What a config group offers."""
    found = [
        path.relative_to(folder / group).with_suffix("").as_posix()
        for folder in (config_dir(), *search_path(extra))
        for path in (folder / group).rglob("*.yaml")
    ]
    return sorted(set(found))


def normalised(overrides: Sequence[str], extra: Path | None = None) -> list[str]:
    """Overrides as Hydra wants them.

    `arms.<name>.grid.<knob>=[...]` and `arms.<name>.forced_acceptance` add a key that no file has: a plus sign.
    `tasks=lm_eval/NAME` for which there is no file is any task of lm-eval's.
    """
    added = re.compile(rf"arms\.[^.=]+\.(grid\.|{KNOB}=)")
    words = [f"+{word}" if added.match(word) else word for word in overrides]
    for index, word in enumerate(words):
        group, _, name = word.partition("=lm_eval/")
        if group == "tasks" and re.fullmatch(r"[\w.-]+", name) and f"lm_eval/{name}" not in choices("tasks", extra):
            words[index : index + 1] = ["tasks=lm_eval/any", f"tasks.task={name}"]
    return words


def searching(extra: Path | None) -> list[str]:
    """The override that tells Hydra where else to look. Python files in the user's folder can be named as targets."""
    if extra is not None:
        if not extra.is_dir():
            raise InputError(f"--config-dir {extra} is no folder.")
        sys.path.insert(0, str(extra.resolve()))
    folders = search_path(extra)
    return [f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in folders)}]"] if folders else []


def compose(overrides: Sequence[str], extra: Path | None = None, name: str = "config") -> dict[str, Any]:
    """The resolved config under the overrides.

    extra: another folder of configs (a user's own arms, rules, tasks) and of the Python files that they name.
    """
    from hydra import compose as hydra_compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    words = [*normalised(overrides, extra), *searching(extra)]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            composed = hydra_compose(config_name=name, overrides=words, return_hydra_config=True)
        grid, experiment = composed.hydra.sweeper.params, composed.hydra.runtime.choices.get("experiment")
        composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        resolved = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_sentence(error, extra)) from error
    if grid:
        axes = ", ".join(f"{key}={value}" for key, value in grid.items())
        raise InputError(f"This experiment is a grid ({axes}): run it with -m.")
    assert isinstance(resolved, dict)
    if isinstance(resolved.get("arms"), dict):
        named = chosen_arms(resolved["arms"], experiment)
        resolved["arms"] = {arm: forced(knobs, arm) for arm, knobs in named.items()}
    return {str(key): value for key, value in resolved.items()}


def chosen_arms(arms: Mapping[str, Any], experiment: str | None) -> dict[str, Any]:
    """The arms without those that an experiment sets knobs of and the command line leaves out: of these there is nothing else."""
    return {arm: knobs for arm, knobs in arms.items() if not experiment or "_target_" in knobs}


def _sentence(error: Exception, extra: Path | None) -> str:
    """What Hydra says in a paragraph, in a sentence."""
    text = str(error)
    missing = re.search(r"Could not (?:find|load) '(\w+)/([^']+)'", text)
    if missing:
        group, name = missing.groups()
        return f"There is no {GROUPS.get(group, group)} '{name}'; there are: {', '.join(choices(group, extra))}."
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        *path, key = unknown[1].split(".")
        where = f"'{'.'.join(path)}'" if path else "the config"
        return f"Could not set '{unknown[1]}': {where} has no '{key}'; `sdbench run --cfg` shows what there is."
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def expand_grids(arms: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each arm with a `grid` becomes one arm per point of the grid, named arm[knob=value,...], in its place."""
    expanded: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        arm = deepcopy(dict(arm))
        axes = list(_leaves(arm.pop("grid", {})))
        for knob, values in axes:
            if not isinstance(values, list) or not values:
                raise InputError(f"arms.{name}.grid.{knob} must be a list of values, such as [1,2,4].")
        for point in itertools.product(*(values for _, values in axes)):
            member = deepcopy(arm)
            for (knob, _), value in zip(axes, point, strict=True):
                _set(member, knob, value, name)
            label = ",".join(f"{knob}={value}" for (knob, _), value in zip(axes, point, strict=True))
            expanded[f"{name}[{label}]" if label else name] = forced(member, name)
    return expanded


def _leaves(grid: Mapping[str, Any], prefix: str = ""):
    for key, value in grid.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _set(arm: dict[str, Any], knob: str, value: Any, name: str) -> None:
    *path, last = knob.split(".")
    node: Any = arm
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise InputError(f"arms.{name}.grid.{knob}: the arm has no such knob.")
    node[last] = value
