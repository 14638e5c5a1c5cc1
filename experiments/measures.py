"""Measures that both papers' claims share: each takes the runs (`Cells`) and answers with an estimate (`Found`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from experiments.cells import Cells, arms_of
from experiments.found import Found, best, of_logs, of_values


def fastest_against(cells: Cells, cell: str, arms: Sequence[str], against: Sequence[str]) -> Found:
    """Speed of the fastest of some families of arms over that of the fastest of others, in one run (by name, or the start of the
    names of several: then the mean over them)."""
    runs = cells.starting(cell)
    parts, notes = [], []
    for name, run in runs.items():
        ours, which = best(run.logs, [arm for family in arms for arm in arms_of(run, family)])
        theirs, other = best(run.logs, [arm for family in against for arm in arms_of(run, family)])
        parts.append((ours - theirs).rename(lambda unit, name=name: f"{name}/{unit}"))
        notes.append(f"{which} over {other}" + (f" ({name})" if len(runs) > 1 else ""))
    return of_logs(pd.concat(parts), "; ".join(notes))


def model_error(cells: Cells, parts: Sequence[str], families: Sequence[str]) -> Found:
    """|predicted / measured speed - 1|, mean over the arms of some families, in the cells of some parts, that have a prediction."""
    errors = {}
    for name, run in (item for part in parts for item in cells.starting(part).items()):
        for arm in (arm for family in families for arm in run.members(family)):
            found = run.summary["arms"][arm]
            predicted, measured = found["predicted_tokens_per_second"], found["tokens_per_second"]
            if predicted and measured:
                errors[name, arm] = abs(predicted / measured - 1)
    return replace(of_values(pd.Series(errors, dtype=float), "over arms"), timed=True)
