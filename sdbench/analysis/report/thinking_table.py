"""Acceptance of a reasoning model in its thinking and in its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbench.analysis.report.grid import Column, Grid, percent

_NOTE = "The parts are split behind `</think>`. A round belongs to the part in which its first token stands."


def thinking_table(summary: Mapping[str, Any]) -> Grid | None:
    """Make a row per arm and part. None if no sequence of the run thinks."""
    rows = [
        (name, part, one["rounds"], one["tokens_per_target_call"], one["acceptance_rate"])
        for name, arm in summary["arms"].items()
        if (split := arm.get("thinking")) is not None
        for part in ("thinking", "answer")
        if (one := split[part])["rounds"]
    ]
    if not rows:
        return None
    columns = [
        Column("arm"),
        Column("part"),
        Column("rounds", "d"),
        Column("tokens / target call", ".2f"),
        Column("acceptance", percent),
    ]
    return Grid(columns, rows, notes=[_NOTE])
