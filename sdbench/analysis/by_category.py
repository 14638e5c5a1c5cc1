"""The comparison within each category of prompts: a table per measure, arms by categories."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdbench.analysis import metrics, statistics
from sdbench.analysis.rows import by_arm, target_rounds, usable
from sdbench.analysis.table import NOTHING
from sdbench.runs.record import Run

Measure = Callable[[dict[str, pd.DataFrame], dict[str, pd.DataFrame]], float]


@dataclass(frozen=True)
class Breakdown:
    """A measure by arm and category, as text; rows: the arm and a cell per category."""

    measure: str
    rows: list[tuple[str, list[str]]]


def categories(run: Run) -> dict[str, int]:
    """How many prompts each category has, in the run's order; empty if there is only one."""
    counts = run.sequences.drop_duplicates("prompt_id").groupby("category", sort=False).size()
    return {str(name): int(count) for name, count in counts.items()} if len(counts) > 1 else {}


def breakdowns(run: Run) -> list[Breakdown]:
    """Every measure by category; none if there is only one."""
    names = list(categories(run))
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
    made = []
    for measure, (compute, digits) in MEASURES.items():
        rows = []
        for arm in run.summary["arms"]:
            values = [
                compute(parts[name].get(arm, empty), parts[name].get(run.summary["baseline"], empty)) for name in names
            ]
            rows.append((arm, [NOTHING if not math.isfinite(value) else f"{value:.{digits}f}" for value in values]))
        made.append(Breakdown(measure, rows))
    return made


def _speedup(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    """Geometric mean of the paired ratios; NaN where the rows of a block, which share their time, are of several categories."""
    ours, theirs = arm["sequences"], base["sequences"]
    if ours.empty or theirs.empty or "block" in map(statistics.unit_column, (ours, theirs)):
        return float("nan")
    logs = statistics.log_ratios(ours, theirs)
    return float(np.exp(logs.mean())) if len(logs) else float("nan")


def _quality(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    return float(metrics.prompt_scores(arm["sequences"]).mean())


def _tokens_per_call(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    return metrics.tokens_per_target_call(arm["sequences"])


def _acceptance(arm: dict[str, pd.DataFrame], base: dict[str, pd.DataFrame]) -> float:
    return 100 * metrics.acceptance_rate(target_rounds(arm["rounds"]))


MEASURES: dict[str, tuple[Measure, int]] = {
    "speed-up (×)": (_speedup, 2),
    "quality": (_quality, 3),
    "tokens per target call": (_tokens_per_call, 2),
    "acceptance (%)": (_acceptance, 1),
}
