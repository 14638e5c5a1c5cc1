"""`report/`: the table and the figures of finished runs, for reading (Markdown and a page) and for a paper (LaTeX, SVG)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.analysis import crossover, plots, provenance, style, webpage
from sdbench.analysis.report.comparison_table import READING, bounds, comparison, every_metric
from sdbench.analysis.report.grid import Grid
from sdbench.analysis.report.significance_table import significance
from sdbench.errors import InputError
from sdbench.runs.files import write_text
from sdbench.runs.record import Run, load

if TYPE_CHECKING:
    from rich.console import Console


def report(run_dirs: Sequence[Path | str], out: Path | str | None = None, page: bool = True) -> Path:
    """Write `report.md`, `report.tex`, `table.csv`, the figures and, as one page of all, `report.html`.

    `batch.json` too, where back-ups can be held against each other.

    Args:
        run_dirs: folders of finished runs. Arms of different runs are shown in separate sections: they were not paired.
        out: where to write; `report/` in the folder of the first run if None.
        page: whether to write `report.html` too, which holds texts of the runs.

    Returns:
        The path of `report.md`.

    Raises:
        InputError: no folder was named, or one is no finished run's.
    """
    if not run_dirs:
        raise InputError("no run was named; name the folder of at least one finished run")
    runs = [load(directory) for directory in run_dirs]
    folder = Path(out) if out is not None else runs[0].path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    several = len(runs) > 1
    # The same run may lie in two folders, measured twice.
    figures = [
        Path("figures") / f"{number}-{run.run_id}" if several else Path("figures") for number, run in enumerate(runs, 1)
    ]
    for place in figures:  # an earlier report's would be shown as this one's
        for old in (folder / place).glob("*.svg"):
            old.unlink()
            old.with_suffix(".png").unlink(missing_ok=True)
    sections = [_section(run, folder, place) for run, place in zip(runs, figures, strict=True)]
    write_text(folder / "report.md", "# Comparison\n\n" + _batches(runs, folder) + "\n".join(sections))
    write_text(folder / "table.csv", every_metric(runs).csv())
    write_text(folder / "report.tex", _latex(runs))
    if page:
        write_text(folder / "report.html", webpage.page(runs, [folder / place for place in figures]))
    return folder / "report.md"


def show(summary: dict[str, Any], console: Console | None = None) -> None:
    """Print a summary's table to the terminal."""
    comparison(summary).show(console)


def _section(run: Run, folder: Path, figures: Path) -> str:
    """One run in Markdown; its figures are drawn into `folder / figures`."""
    written = {path.stem for path in plots.draw(run.summary, folder / figures)}
    pictures = "\n\n".join(
        f"### {plots.TITLES[name]}\n\n![{plots.TITLES[name]}]({(figures / name).as_posix()}.png)"
        for name in plots.FIGURES
        if name in written
    )
    return (
        "\n\n".join(
            part
            for part in (
                _heading(run),
                comparison(run.summary).markdown(notes=True),
                _below("Evidence", significance(run.summary)),
                _below("Bounds", bounds(run.summary)),
                pictures,
            )
            if part
        )
        + "\n"
    )


def _batches(runs: Sequence[Run], folder: Path) -> str:
    """Batch size against back-up over all of the runs: its data, and, of several runs, its figure in Markdown."""
    found = crossover.crossover([run.summary for run in runs])
    if found is None:
        return ""
    write_text(folder / "batch.json", json.dumps(found, indent=2) + "\n")
    if len(runs) == 1:
        return ""
    with style.context():
        made = crossover.figure(found)
        if made is not None:
            style.save(made, folder / "figures", "batch")
    title = plots.TITLES["batch"]
    return f"## {title}\n\n![{title}](figures/batch.png)\n\n"


def _heading(run: Run) -> str:
    summary = run.summary
    return (
        f"## {run.path.name}\n\n"
        f"Run `{run.run_id}`: {summary['prompts']} prompts, {summary['repeats']} repeat(s), "
        f"baseline `{summary['baseline']}`; {provenance.processor(run)}, on {provenance.devices(run)}; "
        f"revision {provenance.revision(run)}.\n\n{READING}{_company(summary)}{_simulated(summary)}"
    )


def _company(summary: dict[str, Any]) -> str:
    if not summary.get("shared_device"):
        return ""
    return (
        f"\n\n**Another job ran on the same device or cores during {summary['shared_blocks']} block(s): the speeds here are "
        "not to be trusted.** Acceptance and quality are not touched by it."
    )


def _simulated(summary: dict[str, Any]) -> str:
    """A paragraph that names the arms whose acceptance was forced; '' where there are none."""
    names = [f"`{name}`" for name, arm in summary["arms"].items() if arm.get("simulated_acceptance")]
    if not names:
        return ""
    return f"\n\n**Simulated acceptance**: {', '.join(names)} kept as many tokens as was forced; no quality is reported of them."


def _below(heading: str, grid: Grid | None) -> str:
    return "" if grid is None else f"### {heading}\n\n{grid.markdown(notes=True)}"


def _latex(runs: Sequence[Run]) -> str:
    """The comparison of each run, for `\\input` in a document that loads booktabs."""
    grids = [comparison(run.summary) for run in runs]
    tables = [
        replace(grid, title=f"Run {run.run_id}: {grid.title}.", label=run.run_id).latex()
        for run, grid in zip(runs, grids, strict=True)
    ]
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(tables)
