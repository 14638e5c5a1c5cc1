"""How sure each difference to the baseline is: bootstrap intervals, p after Holm's correction, smallest detectable effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbench.analysis.report.grid import Column, Grid, estimate, interval, percent, probability

_NOTE = (
    "Detectable: the smallest true difference that this number of prompts finds with probability 0.8 at level 0.05. p is the "
    "probability of such data if there is no difference, adjusted by Holm's method for all arms of the run."
)


def significance(summary: Mapping[str, Any]) -> Grid | None:
    """Make a row per arm but the baseline. None for a baseline alone, and for a summary of a release without these numbers."""
    others = {name: arm for name, arm in summary["arms"].items() if name != summary["baseline"]}
    if not others or not all("speedup_p_holm" in arm for arm in others.values()):
        return None
    grid = Grid(
        [
            Column("arm"),
            Column("speed-up, percentile", _two_digits),
            Column("BCa", _two_digits),
            Column("p (Holm)", probability),
            Column("detectable", percent),
            Column("quality difference", align="right"),
            Column("p (Holm)", probability),
            Column("test"),
            Column("detectable", ".3f"),
        ],
        [
            (
                name,
                arm["speedup_ci95"],
                arm["speedup_ci95_bca"],
                arm["speedup_p_holm"],
                arm["minimum_detectable_effect"],
                estimate(arm["quality_difference"], arm["quality_difference_ci95"], 3, signed=True),
                arm["quality_p_holm"],
                arm["quality_test"],
                arm["quality_minimum_detectable_effect"],
            )
            for name, arm in others.items()
        ],
        notes=[_NOTE],
    )
    shown = grid.without_empty_columns()
    return shown if len(shown.columns) > 1 else None


def _two_digits(ends: list[float]) -> str:
    return interval(ends, 2)
