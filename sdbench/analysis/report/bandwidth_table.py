"""How near the steps of each model come to the bandwidth of their device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdbench.analysis.report.grid import Column, Grid, percent

_NOTE = (
    "Share: bytes of weights and cache that a step must read, over its time and the measured bandwidth of the device. "
    "Weights that fit a cache can exceed 100 %."
)


def bandwidth_table(summary: Mapping[str, Any]) -> Grid | None:
    """Make a row per arm and model. None if no share is known."""
    rows = [
        (name, role, share)
        for name, arm in summary["arms"].items()
        for role, share in (arm.get("bandwidth_share") or {}).items()
    ]
    if not rows:
        return None
    return Grid([Column("arm"), Column("model"), Column("share of bandwidth", percent)], rows, notes=[_NOTE])
