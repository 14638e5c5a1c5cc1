"""Measures that the claims of several papers share. Each takes the kept runs and returns an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from sdbench.papers.estimate import Estimate, fastest_ratio, of_logs, of_values
from sdbench.papers.paper_results import PaperResults, arms_of


def fastest_against(results: PaperResults, part: str, arms: Sequence[str], against: Sequence[str]) -> Estimate:
    """Return the speed of the fastest of some families of arms over that of the fastest of others.

    Each ratio is taken within one run. Where the part varies something, the estimate is the mean over its runs.
    """
    runs = results.part(part)
    values, predictions, notes = [], [], []
    for name, run in runs.items():
        ours, theirs = ([arm for family in families for arm in arms_of(run, family)] for families in (arms, against))
        logs, predicted, note = fastest_ratio(run, ours, theirs)
        values.append(logs.rename(lambda unit, name=name: f"{name}/{unit}"))
        predictions.append(predicted)
        notes.append(note + (f" ({name})" if len(runs) > 1 else ""))
    return of_logs(pd.concat(values), "; ".join(notes), pd.concat(predictions))


def model_error(results: PaperResults, parts: Sequence[str], families: Sequence[str]) -> Estimate:
    """Return |predicted / measured speed - 1|, the mean over the arms of some families in the runs of some parts."""
    errors = {}
    for name, run in (item for part in parts for item in results.part(part).items()):
        for arm in (arm for family in families for arm in run.members(family)):
            found = run.summary["arms"][arm]
            predicted, measured = found["predicted_tokens_per_second"], found["tokens_per_second"]
            if predicted and measured:
                errors[name, arm] = abs(predicted / measured - 1)
    return replace(of_values(pd.Series(errors, dtype=float), "over arms"), timed=True)
