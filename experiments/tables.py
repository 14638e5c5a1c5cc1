"""The tables of a paper from its kept cells: every arm of every cell, and the published values beside ours."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pandas as pd

from experiments.cells import Cells, NotRun

METRICS = (
    "tokens_per_second",
    "speedup",
    "speedup_totals",
    "tokens_per_target_call",
    "accepted_per_round",
    "acceptance_rate",
    "quality",
    "quality_difference",
    "non_inferior",
    "target_calls_per_answer",
    "output_tokens",
    "degenerate_rate",
    "hit_rate",
    "predicted_tokens_per_second",
    "model_time_fraction",
    "lossless",
    "prompts",
    "sequences",
    "failed",
)
TIMED = (
    "tokens_per_second",
    "speedup",
    "speedup_totals",
    "predicted_tokens_per_second",
    "model_time_fraction",
    "speedup_low",
    "speedup_high",
)
"""Columns that come from a clock: all others are the same whenever the cells are run."""


def arms(cells: Cells) -> pd.DataFrame:
    """A row per cell and arm: metrics, the ends of the intervals, acceptance of every edge, forwards of every role per answer."""
    rows = []
    for name in cells.names:
        run, counts = cells[name], cells.counts(name)
        forwards = counts.filter(like="forwards_").groupby(counts["arm"]).mean()
        for arm, found in run.summary["arms"].items():
            low, high = found["speedup_ci95"] or (None, None)
            worst, most = found["quality_ci95"] or (None, None)
            rows.append(
                {
                    "cell": name,
                    "arm": arm,
                    **{key: found.get(key) for key in METRICS},
                    "speedup_low": low,
                    "speedup_high": high,
                    "quality_low": worst,
                    "quality_high": most,
                    **{f"acceptance {edge}": part["acceptance_rate"] for edge, part in found["edges"].items()},
                    **(forwards.loc[arm].to_dict() if arm in forwards.index else {}),
                }
            )
    return pd.DataFrame(rows)


def published(paper: str, cells: Cells) -> pd.DataFrame:
    """The paper's table with a column of ours beside each value: the module `experiments.<paper>.published` knows which it is."""
    beside: Callable[[Cells], pd.DataFrame] = import_module(f"experiments.{paper}.published").beside
    return beside(cells)


def write_tables(paper: str, cells: Cells) -> None:
    """Write `arms.csv` and `published.csv` beside the cells."""
    arms(cells).to_csv(cells.folder / "arms.csv", index=False, float_format="%.6g", lineterminator="\n")
    try:
        table = published(paper, cells)
    except NotRun:
        return
    table.to_csv(cells.folder / "published.csv", index=False, float_format="%.6g", lineterminator="\n")
