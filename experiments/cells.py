"""The kept cells of a paper: what its runs left, one folder each under `results/<paper>/<profile>-<budget>/cells/`.

A cell keeps a run's config, environment, summary and sequences, and in `counts.parquet` what its traces say of each sequence:
forwards by role, drafted and accepted tokens of the outermost edge, outcomes and hits of a speculation cache.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import yaml

from experiments.keep import without_folders
from sdbench.analysis.results import Results, read
from sdbench.analysis.rows import target_rounds
from sdbench.runs.record import Run, load

FILES = ("summary.json", "environment.json", "sequences.parquet")
KEYS = ["arm", "block", "repeat", "prompt_id"]


class NotRun(LookupError):  # noqa: N818 - no error: some cells are not there yet
    """The runs lack what a measure needs."""


class Cells:
    """The kept cells of a folder, read as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: set[str] = set()  # which cells were asked for
        self._read: dict[str, Results] = {}

    @property
    def names(self) -> list[str]:
        """The cells that were kept."""
        kept = [path.parent.name for path in (self.folder / "cells").glob("*/summary.json")]
        return sorted(name for name in kept if not name.startswith("."))  # what was begun to be kept is not kept

    def __getitem__(self, name: str) -> Results:
        if name not in self._read:
            if name not in self.names:
                raise NotRun(name)
            self._read[name] = read(self.folder / "cells" / name)
        self.used.add(name)
        return self._read[name]

    def starting(self, name: str) -> dict[str, Results]:
        """The cell of that name, or all those of the part of that name."""
        found = [cell for cell in self.names if cell == name or cell.startswith(f"{name}-")]
        if not found:
            raise NotRun(name)
        return {cell: self[cell] for cell in found}

    def counts(self, name: str) -> pd.DataFrame:
        """`counts.parquet` of a cell."""
        path = self.folder / "cells" / name / "counts.parquet"
        if not path.is_file():
            raise NotRun(name)
        return pd.read_parquet(path)


def arms_of(run: Results, family: str) -> list[str]:
    """The arms of a family that count: a void arm wrote other tokens than it should have.

    Raises:
        NotRun: there is none.
    """
    arms = [arm for arm in run.members(family) if not run.summary["arms"][arm].get("void")]
    if not arms:
        raise NotRun(family)
    return arms


def keep(run_folder: Path, kept: Path) -> None:
    """Keep a finished run as a cell: under its name only when it is whole."""
    run = load(run_folder)
    making = kept.with_name(f".{kept.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for file in FILES:
        shutil.copy(run_folder / file, making / file)
    config = yaml.safe_dump(without_folders(run.config), sort_keys=False, allow_unicode=True)
    (making / "config.yaml").write_text(config, encoding="utf-8")
    counts(run).to_parquet(making / "counts.parquet", index=False)
    shutil.rmtree(kept, ignore_errors=True)
    making.rename(kept)


def counts(run: Run) -> pd.DataFrame:
    """A row per sequence: drafted, accepted, outcomes, hits, and forwards of each role (a block's, split evenly over its rows)."""
    outer = target_rounds(run.rounds).sort_values([*KEYS, "round"])
    hit = outer["hit"] if "hit" in outer else pd.Series(pd.NA, index=outer.index)
    first = outer.groupby(KEYS).cumcount() == 0  # the first round follows no outcome
    outcome = hit.notna() & ~first
    marked = outer.assign(outcomes=outcome, hits=outcome & hit.eq(True))
    sums = marked.groupby(KEYS)[["proposed", "accepted", "outcomes", "hits"]].sum().astype("int64").reset_index()
    steps = run.steps[run.steps["kind"] != "prefill"]
    block = ["arm", "block", "repeat"]
    forwards = steps.groupby([*block, "role"]).size().unstack(fill_value=0)
    rows = run.sequences.groupby(block).size()
    shares = forwards.div(rows, axis=0).add_prefix("forwards_").reset_index()
    return sums.merge(shares, on=block, how="left")
