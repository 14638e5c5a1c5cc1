"""Acceptance over the order of the prompts, for runs in which a draft learns while it serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sdbench.analysis.metrics.order import updates
from sdbench.analysis.report.grid import Column, Grid, percent
from sdbench.analysis.tables import decode_tokens, ratio, target_rounds, usable
from sdbench.runs.record import Run

WINDOWS = 8  # of prompts in their order
_NOTE = (
    "Each prompt is decoded with what earlier prompts taught, and before the draft learns from it. Updates are part of the time of "
    "their blocks. The last column is their share of the decode time of the window."
)


def order_table(run: Run) -> Grid | None:
    """Make a row per arm and window of prompts. None if no draft has learned in the run."""
    tables = usable(run.tables)
    if updates(tables["rounds"], 1.0) is None:
        return None
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(tables["sequences"]["prompt_id"]))}
    count = min(WINDOWS, len(order))
    window = {prompt: place * count // len(order) for prompt, place in order.items()}
    rows = []
    for arm in run.summary["arms"]:
        sequences, rounds = (tables[name][tables[name]["arm"] == arm] for name in ("sequences", "rounds"))
        if (rounds["proposed"] > 0).any():
            rows += [_row(arm, number, window, sequences, target_rounds(rounds)) for number in range(count)]
    columns = [
        Column("arm"),
        Column("prompts"),
        Column("category"),
        Column("acceptance", format=percent),
        Column("tokens / target call", ".2f"),
        Column("updates", "d"),
        Column("update time", format=percent),
    ]
    return Grid(columns, rows, notes=[_NOTE])


def _row(
    arm: str, number: int, window: dict[str, int], sequences: pd.DataFrame, rounds: pd.DataFrame
) -> tuple[Any, ...]:
    """Return the values of an arm in a window of prompts."""
    own = sequences[sequences["prompt_id"].map(window) == number]
    verified = rounds[rounds["prompt_id"].map(window) == number]
    places = [place for place, at in enumerate(window.values(), 1) if at == number]
    seconds = own.drop_duplicates(["block", "repeat"])["block_decode_seconds"].sum()
    made = updates(verified, seconds) or {"count": 0, "share": np.nan}
    return (
        arm,
        f"{places[0]} to {places[-1]}",
        ", ".join(dict.fromkeys(own["category"].fillna(""))),
        ratio(verified["accepted"].sum(), verified["proposed"].sum()),
        ratio(decode_tokens(own).sum(), own["target_calls"].sum()),
        made["count"],
        made["share"],
    )
