"""The section of one run in `report.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdbench.analysis.figures.draw import FIGURES
from sdbench.analysis.report import provenance
from sdbench.analysis.report.bandwidth_table import bandwidth_table
from sdbench.analysis.report.calibration_table import calibration_table
from sdbench.analysis.report.comparison_table import READING, bounds, comparison
from sdbench.analysis.report.grid import Grid
from sdbench.analysis.report.order_table import order_table
from sdbench.analysis.report.origins_table import origins_table
from sdbench.analysis.report.significance_table import significance
from sdbench.analysis.report.thinking_table import thinking_table
from sdbench.runs.record import Run


def section(run: Run, folder: Path, figures: Sequence[str]) -> str:
    """Write the section of a run.

    Args:
        run: the finished run.
        folder: the folder of its figures, relative to `report.md`.
        figures: the names of the figures that were drawn.
    """
    pictures = [f"### {FIGURES[name].title}\n\n{figure_link(FIGURES[name].title, folder, name)}" for name in figures]
    parts = [
        _heading(run),
        _shared(run.summary),
        _simulated(run.summary),
        comparison(run.summary).markdown(notes=True),
        _titled("Significance", significance(run.summary)),
        _titled("Bounds", bounds(run.summary)),
        _titled("Bandwidth", bandwidth_table(run.summary)),
        _titled("Calibration of the drafts", calibration_table(run.summary)),
        _titled("Thinking and answer", thinking_table(run.summary)),
        _titled("Origins and survival", origins_table(run)),
        _titled("The order of the prompts", order_table(run)),
        *pictures,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figure_link(title: str, folder: Path, name: str) -> str:
    """Show a figure in Markdown."""
    return f"![{title}]({(folder / name).as_posix()}.svg)"


def _heading(run: Run) -> str:
    summary = run.summary
    return (
        f"## {run.path.name}\n\n"
        f"Run `{run.run_id}`: {summary['prompts']} prompts, {summary['repeats']} repeat(s), "
        f"baseline `{summary['baseline']}`; {provenance.processor(run)}, on {provenance.devices(run)}; "
        f"revision {provenance.revision(run)}.\n\n{READING}"
    )


def _shared(summary: Mapping[str, Any]) -> str:
    if not summary.get("shared_device"):
        return ""
    return (
        f"**Another job ran on the same device or cores during {summary['shared_blocks']} block(s): do not trust these speeds.** "
        "Acceptance and quality do not depend on it."
    )


def _simulated(summary: Mapping[str, Any]) -> str:
    """Name the arms whose acceptance was forced; '' if there are none."""
    names = [f"`{name}`" for name, arm in summary["arms"].items() if arm.get("simulated_acceptance")]
    if not names:
        return ""
    return f"**Simulated acceptance**: the number of accepted tokens of {', '.join(names)} was forced. So no quality is reported."


def _titled(heading: str, grid: Grid | None) -> str:
    return "" if grid is None else f"### {heading}\n\n{grid.markdown(notes=True)}"
