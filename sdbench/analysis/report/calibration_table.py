"""How well each draft model knows which of its tokens will be accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbench.analysis.report.grid import Column, Grid, percent

_NOTE = (
    "Tokens: drafted ones that were judged, with all tokens before them kept. Brier: mean squared difference of the draft's "
    "probability (at temperature 1) and acceptance. ECE: the difference of both over ten bins. AUROC: the chance that an accepted "
    "token has a higher probability than a rejected one."
)


def calibration_table(summary: Mapping[str, Any]) -> Grid | None:
    """Make a row per arm and edge whose drafts have probabilities. None if there is no such edge."""
    rows = [
        (name, edge, one["tokens"], one["mean_probability"], one["accepted"], one["brier"], one["ece"], one["auroc"])
        for name, arm in summary["arms"].items()
        for edge, about in arm["edges"].items()
        if (one := about.get("calibration")) is not None
    ]
    if not rows:
        return None
    columns = [
        Column("arm"),
        Column("edge"),
        Column("tokens", "d"),
        Column("mean probability", percent),
        Column("accepted", percent),
        Column("Brier", ".3f"),
        Column("ECE", ".3f"),
        Column("AUROC", ".3f"),
    ]
    return Grid(columns, rows, notes=[_NOTE])
