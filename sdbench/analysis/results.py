"""Open a finished run, or a kept part of one, for analysis in a notebook.

    from sdbench.analysis.results import read
    results = read("results/default")
    results.arms[["speedup", "quality"]]

A kept folder has no traces (`rounds`, `steps`). So everything here comes from the summary and the sequences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sdbench.analysis.figures import style
from sdbench.analysis.metrics.quality import prompt_scores
from sdbench.analysis.metrics.speed import log_ratios, speedup
from sdbench.analysis.stats.intervals import Estimate
from sdbench.analysis.tables import usable
from sdbench.errors import InputError


@dataclass(frozen=True)
class Results:
    """One comparison. path: its folder; config, environment, summary: its documents; sequences: its table, whole."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    sequences: pd.DataFrame

    @cached_property
    def arms(self) -> pd.DataFrame:
        """A row per arm, in the order of the comparison: `family`, and every metric that is a single value."""
        rows = {
            name: {"family": style.family(name), **{key: value for key, value in arm.items() if _single(value)}}
            for name, arm in self.summary["arms"].items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")

    def of(self, arm: str) -> pd.DataFrame:
        """Select the sequences of an arm, without blocks in which one failed.

        Raises:
            InputError: there is no such arm.
        """
        if arm not in self.summary["arms"]:
            raise InputError(f"{self.path} has no arm '{arm}'; it has: {', '.join(self.summary['arms'])}.")
        clean = usable({"sequences": self.sequences})["sequences"]
        return clean[clean["arm"] == arm]

    def compare(self, arm: str, other: str) -> Estimate:
        """Estimate the speed of an arm over another's: paired over prompts, with its 95 % interval."""
        return speedup(self.of(arm), self.of(other))

    def knob(self, arm: str, name: str) -> Any:
        """Read a knob of an arm's config by its path, such as `proposer.rule.threshold`; None if the arm lacks it."""
        value: Any = self.summary["arms"][arm]["config"]
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def members(self, family: str) -> list[str]:
        """List the arms of a family: the arm of that name, or all points of its grid."""
        return [name for name in self.summary["arms"] if style.family(name) == family]

    @cached_property
    def logs(self) -> pd.DataFrame:
        """log(speed / the baseline's speed), a row per unit (prompt, or block at larger batches), a column per arm."""
        baseline = self.summary["baseline"]
        base = self.of(baseline)
        others = [name for name in self.summary["arms"] if name != baseline]
        table = pd.DataFrame({name: log_ratios(self.of(name), base) for name in others})
        return table.assign(**{baseline: 0.0})

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The mean score of each prompt, a column per arm; empty for a task without scores."""
        return pd.DataFrame({name: prompt_scores(self.of(name)) for name in self.summary["arms"]})


def read(folder: Path | str) -> Results:
    """Read a finished run, or the kept part of one.

    Raises:
        InputError: the folder lacks `config.yaml`, `environment.json`, `summary.json` or `sequences.parquet`.
    """
    path = Path(folder)
    try:
        return Results(
            path,
            yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")),
            json.loads((path / "environment.json").read_text(encoding="utf-8")),
            json.loads((path / "summary.json").read_text(encoding="utf-8")),
            pd.read_parquet(path / "sequences.parquet"),
        )
    except FileNotFoundError as error:
        raise InputError(f"{path} holds no results: {Path(error.filename).name} is missing.") from error


def _single(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
