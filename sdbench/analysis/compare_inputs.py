"""Find the two sides of a comparison: which arm of which run, and how the two differ apart from their method."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sdbench.analysis.tables import usable
from sdbench.errors import InputError
from sdbench.runs.record import open_run
from sdbench.runs.tables import read_parquet

MEASURES = ("metric", "filter", "reference_field", "scorer")  # the keys of a task that define its scores


@dataclass(frozen=True)
class Side:
    """One arm of one finished run. sequences: its usable rows; summary: the arm's part of `summary.json`."""

    folder: Path
    arm: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    sequences: pd.DataFrame

    @property
    def name(self) -> str:
        """The address DIR:arm."""
        return f"{self.folder}:{self.arm}"

    @property
    def task(self) -> str:
        """The source of the prompts: the kind of task, and the data that it reads."""
        sources = [str(value) for key in ("task", "path") if (value := self.config["tasks"].get(key)) is not None]
        return " ".join([str(self.config["tasks"].get("_target_")), *sources])

    @property
    def measure(self) -> str:
        """The definition of its scores."""
        return ", ".join(f"{key} {value}" for key in MEASURES if (value := self.config["tasks"].get(key)) is not None)

    @property
    def machine(self) -> str:
        """Processor, cores and GPUs of the run."""
        cpu, gpus = self.environment.get("cpu", {}), self.environment.get("gpus", [])
        parts = [f"{cpu.get('model')} with {cpu.get('logical_cores')} cores", *(str(gpu["name"]) for gpu in gpus)]
        return ", ".join(parts)

    @property
    def threads(self) -> int:
        """Number of torch's threads."""
        return self.summary["config"].get("threads") or self.config["hardware"]["threads"]

    @property
    def prompts_sha256(self) -> str | None:
        """The identity of the prompts; None for a run that did not record it."""
        return self.environment.get("prompts_sha256")


@dataclass(frozen=True)
class Differences:
    """The differences of two sides apart from the method, one clause each.

    hardware: why their speeds cannot be compared; scoring: why their scores cannot be compared; pairing: why their prompts
    cannot be paired; noted: the other differences. None and empty for two arms of one run.
    """

    hardware: str | None = None
    scoring: str | None = None
    pairing: str | None = None
    noted: tuple[str, ...] = ()


def sides(words: Sequence[str], arms: str | None) -> list[tuple[Side, Side]]:
    """Find the pairs that a command line names: `A B` (arms that both have), `A:x B:y`, `A --arms x,y`, `A B --arms x,y`.

    Raises:
        InputError: the words make no pair, a folder is no finished run, or a run has no such arm.
    """
    places = [_address(word) for word in words]
    named = split_arms(arms) if arms is not None else None
    if named is not None and (len(named) != 2 or any(arm for _, arm in places)):
        raise InputError("--arms names two arms, as in --arms ar,sd, and the folders then name none.")
    if named is not None and len(places) <= 2:
        first, second = places[0][0], places[-1][0]
        return [(_side(first, named[0]), _side(second, named[1]))]
    if len(places) != 2:
        raise InputError("compare takes two runs (A B), two arms (A:x B:y), or one run and two arms (A --arms x,y).")
    (first, one), (second, other) = places
    if one is not None or other is not None:
        return [(_side(first, one or other), _side(second, other or one))]
    has = list(_arms(second))
    shared = [arm for arm in _arms(first) if arm in has]
    if not shared or first.resolve() == second.resolve():
        raise InputError(
            f"{first} and {second} have no arm to compare by name; name them, as in {first}:ar {second}:sd."
        )
    return [(_side(first, arm), _side(second, arm)) for arm in shared]


def split_arms(text: str) -> list[str]:
    """Split names at commas. A comma within brackets, as in sd[a=1,b=2], belongs to the name."""
    return [name for name in re.split(r",(?![^\[]*\])", text) if name]


def differences(first: Side, second: Side) -> Differences:
    """Find the differences of two sides.

    Raises:
        InputError: the tasks or the targets differ, so that there is nothing to compare.
    """
    if first.folder.resolve() == second.folder.resolve():
        return Differences()
    if first.task != second.task:
        raise InputError(
            f"The runs have different tasks ({first.task} and {second.task}): there is nothing to compare."
        )
    weights = [side.environment.get("weights", {}) for side in (first, second)]
    if weights[0].get("target") != weights[1].get("target"):
        raise InputError("The runs have different targets (their weights differ): methods are compared on one target.")
    noted = ["they are two runs, so drift of the machine between them is in no interval"]
    shared = weights[0].keys() & weights[1].keys()
    noted += [f"the weights of {role} differ" for role in sorted(shared) if weights[0][role] != weights[1][role]]
    for key in ("sampling", "max_new_tokens", "ignore_eos", "seed"):
        if first.config.get(key) != second.config.get(key):
            noted.append(f"{key} is {first.config.get(key)} and {second.config.get(key)}")
    for key in ("dtype", "execution"):
        one, other = (side.config["hardware"].get(key) for side in (first, second))
        if one != other:
            noted.append(f"hardware.{key} is {one} and {other}")
    scoring = None
    if first.measure != second.measure:
        scoring = f"the scores differ ({first.measure or 'the default'}; {second.measure or 'the default'})"
    return Differences(_hardware(first, second), scoring, _pairing(first, second), tuple(noted))


def _hardware(first: Side, second: Side) -> str | None:
    if first.machine != second.machine:
        return f"the machines differ ({first.machine}; {second.machine})"
    if first.threads != second.threads:
        return f"the threads differ ({first.threads} and {second.threads})"
    devices = [sorted(side.summary["devices"]) for side in (first, second)]
    if devices[0] != devices[1]:
        return f"the devices differ ({', '.join(devices[0])}; {', '.join(devices[1])})"
    return None


def _pairing(first: Side, second: Side) -> str | None:
    if first.prompts_sha256 is None or second.prompts_sha256 is None:
        return "a run does not record its prompts' SHA-256"
    if first.prompts_sha256 != second.prompts_sha256:
        return "the prompts differ"
    if first.config["batch_size"] != second.config["batch_size"]:
        return f"the batch sizes differ ({first.config['batch_size']} and {second.config['batch_size']})"
    return None


def _address(word: str) -> tuple[Path, str | None]:
    if Path(word).is_dir():
        return Path(word), None
    folder, colon, arm = word.partition(":")
    while colon and not Path(folder).is_dir() and ":" in arm:
        more, _, arm = arm.partition(":")
        folder = f"{folder}:{more}"
    return Path(folder), arm or None


def _arms(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.is_file():
        open_run(folder)
        raise InputError(f"{folder} is not finished; `sdbench status {folder}` says how far it is.")
    return json.loads(path.read_text(encoding="utf-8"))["arms"]


def _side(folder: Path, arm: str | None) -> Side:
    arms = _arms(folder)
    if arm not in arms:
        raise InputError(f"{folder} has no arm '{arm}'; it has: {', '.join(arms)}.")
    rows = usable({"sequences": read_parquet(folder, "sequences")})["sequences"]
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return Side(folder, arm, config, environment, arms[arm], rows[rows["arm"] == arm])
