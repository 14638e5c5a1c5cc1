"""The figures of a run's report: their titles, the tables that they are made from, and their drawing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sdbench.analysis.figures import core, ssd, style

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A figure of the report.

    title: its caption; make: draws it from a summary, None if there is nothing to show; tables: the tables of the run
    record that its numbers come from.
    """

    title: str
    make: Callable[[Summary], Figure | None]
    tables: tuple[str, ...]


FIGURES: dict[str, Kind] = {
    "speedup": Kind("Speed-up over the baseline", core.speedup, ("sequences",)),
    "end_to_end": Kind("Speed-up end to end, prefill included", core.end_to_end, ("sequences",)),
    "tokens_per_target_call": Kind("Tokens per target call", core.tokens_per_target_call, ("sequences",)),
    "acceptance": Kind("Acceptance by position, per edge", core.acceptance, ("rounds",)),
    "calibration": Kind("Calibration of the drafts", core.calibration, ("rounds",)),
    "speed_quality": Kind("Speed against quality", core.speed_quality, ("sequences",)),
    "round_time": Kind("Where the time of a round goes", core.round_time, ("sequences", "steps")),
    "predicted": Kind("Predicted against measured speed", core.predicted, ("sequences", "rounds", "steps")),
    "draft_length": Kind("Draft length", core.draft_length, ("sequences",)),
    "timeline": Kind("Target and draft over time", ssd.timeline, ("rounds", "steps")),
    "fan_out": Kind("Hit rate against fan-out", ssd.fan_out, ("rounds",)),
    "saguaro": Kind("Saguaro sampling", ssd.saguaro, ("rounds",)),
    "batch": Kind("Batch size against back-up", ssd.batch_of_run, ("sequences", "rounds", "steps")),
}


def draw(
    summary: Summary,
    folder: Path,
    highlight: Collection[str] = (),
    png: bool = False,
    only: Collection[str] = tuple(FIGURES),
) -> list[Path]:
    """Draw every figure that the summary has numbers for.

    Args:
        summary: the content of `summary.json`.
        folder: where the files go, `<figure>.svg`.
        highlight: names of arms that are drawn larger and with a dark rim.
        png: whether to write `<figure>.png` too.
        only: names in `FIGURES` of the figures to draw.

    Returns:
        The written files.
    """
    written: list[Path] = []
    shown = _with_simulated_names(summary)
    with style.context(summary["arms"], highlight):
        for name, kind in FIGURES.items():
            made = kind.make(shown) if name in only else None
            if made is not None:
                written += style.save(made, folder, name, png)
    return written


def _with_simulated_names(summary: Summary) -> Summary:
    """Add "(simulated acceptance)" to the names of the arms whose acceptance was forced."""
    names = {
        name: f"{name} (simulated acceptance)" if arm.get("simulated_acceptance") else name
        for name, arm in summary["arms"].items()
    }
    arms = {names[name]: arm for name, arm in summary["arms"].items()}
    return {**summary, "baseline": names[summary["baseline"]], "arms": arms}
