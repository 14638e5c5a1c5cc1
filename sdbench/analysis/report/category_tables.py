"""The comparison within each category of prompts: one table per measure, arms by categories."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from sdbench.analysis.metrics.acceptance import acceptance_rate
from sdbench.analysis.metrics.quality import prompt_scores
from sdbench.analysis.metrics.speed import log_ratios, tokens_per_target_call, unit_column
from sdbench.analysis.report.grid import Column, Grid
from sdbench.analysis.tables import by_arm, target_rounds, usable
from sdbench.runs.record import Run

Measure = Callable[[dict[str, pd.DataFrame], dict[str, pd.DataFrame]], float]


def categories(run: Run) -> dict[str, int]:
    """Count the prompts of each category, in the run's order; empty if there is only one category."""
    counts = run.sequences.drop_duplicates("prompt_id").groupby("category", sort=False).size()
    return {str(name): int(count) for name, count in counts.items()} if len(counts) > 1 else {}


def category_tables(run: Run) -> list[Grid]:
    """Make a table per measure that has data. The title is the measure; a heading gives its category's number of prompts.

    The list is empty if there is only one category.
    """
    counts = categories(run)
    names = list(counts)
    if not names:
        return []
    category = run.sequences.drop_duplicates("prompt_id").set_index("prompt_id")["category"]
    tables = {name: table for name, table in usable(run.tables).items() if name in ("sequences", "rounds")}
    tables["rounds"] = tables["rounds"].assign(category=tables["rounds"]["prompt_id"].map(category))
    empty = {name: table.iloc[:0] for name, table in tables.items()}
    parts = {
        name: by_arm({**{key: table[table["category"] == name] for key, table in tables.items()}, "bare": run.bare})
        for name in names
    }
    baseline = run.summary["baseline"]
    made = []
    for measure, (compute, digits) in MEASURES.items():
        rows = [
            (arm, *(compute(parts[name].get(arm, empty), parts[name].get(baseline, empty)) for name in names))
            for arm in run.summary["arms"]
        ]
        if any(np.isfinite(value) for _, *values in rows for value in values):
            columns = [Column("arm"), *(Column(f"{name or 'none'} ({n})", f".{digits}f") for name, n in counts.items())]
            made.append(Grid(columns, rows, title=measure))
    return made


def _speedup(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    """Compute the geometric mean of the paired ratios; NaN if the rows of a block share their time, whatever their
    categories."""
    ours, theirs = arm["sequences"], base["sequences"]
    if ours.empty or theirs.empty or "block" in map(unit_column, (ours, theirs)):
        return float("nan")
    logs = log_ratios(ours, theirs)
    return float(np.exp(logs.mean())) if len(logs) else float("nan")


def _quality(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    return float(prompt_scores(arm["sequences"]).mean())


def _tokens_per_call(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    return tokens_per_target_call(arm["sequences"])


def _acceptance(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    return 100 * acceptance_rate(target_rounds(arm["rounds"]))


MEASURES: dict[str, tuple[Measure, int]] = {
    "speed-up (×)": (_speedup, 2),
    "quality": (_quality, 3),
    "tokens per target call": (_tokens_per_call, 2),
    "acceptance (%)": (_acceptance, 1),
}
