"""Keep a finished run as a reference result that is small enough to commit: all but its traces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml

from sdbench.analysis.tables import target_rounds
from sdbench.harness.simulate import simulate
from sdbench.runs.record import Run, load

FILES = ("summary.json", "environment.json", "sequences.parquet")
COUNTS, SIMULATED = "counts.parquet", "simulated.json"
KEYS = ["arm", "block", "repeat", "prompt_id"]


def archive_run(run_folder: Path, kept: Path) -> None:
    """Copy what matters of a finished run into `kept`. A former archive there gives way only to a complete one.

    It copies the summary, the environment, the sequences and the config, and writes what later analysis needs of the traces:
    `counts.parquet` (`counts`) and, for a greedy run with a concurrent draft, `simulated.json` (`simulated`).

    Raises:
        InputError: `run_folder` holds no finished run.
    """
    run = load(run_folder)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=kept.parent, prefix=".archiving-") as scratch:
        making = Path(scratch) / kept.name
        making.mkdir()
        for file in FILES:
            shutil.copy(run.path / file, making / file)
        config = yaml.safe_dump(without_folders(run.config), sort_keys=False, allow_unicode=True)
        (making / "config.yaml").write_text(config, encoding="utf-8")
        counts(run).to_parquet(making / COUNTS, index=False)
        if predictions := simulated(run):
            (making / SIMULATED).write_text(json.dumps(predictions, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)
        making.rename(kept)


def without_folders(value: Any) -> Any:
    """Cut absolute paths in a config to their last part: the folders of one machine are of no use on another."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def counts(run: Run) -> pd.DataFrame:
    """Count what the traces say of each sequence.

    Returns:
        A row per sequence: drafted and accepted tokens of the outermost edge, outcomes and hits of a speculation cache, and
        forwards of each role. A block's forwards are divided evenly among its sequences.
    """
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


def simulated(run: Run) -> dict[str, float]:
    """Return simulated / measured speed - 1 by arm, from the simulator on the run's own times; {} where it does not apply."""
    beside = any(arm["speculation"] or arm["overlapped"] for arm in run.summary["arms"].values())
    if not beside or run.config["sampling"]["temperature"] != 0 or run.config["batch_size"] > 1:
        return {}
    return {name: row["off"] for name, row in simulate(run.path, [])["against_measured"].items()}
