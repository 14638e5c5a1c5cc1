"""Write `report/` of finished runs: tables and figures in Markdown and on one HTML page, and tables for LaTeX and CSV."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdbench.analysis.figures import ssd, style
from sdbench.analysis.figures.draw import FIGURES, draw
from sdbench.analysis.metrics.batch_crossover import crossover
from sdbench.analysis.report.comparison_table import comparison, every_metric
from sdbench.analysis.report.markdown import figure_link, section
from sdbench.analysis.report.page import page as html_page
from sdbench.errors import InputError
from sdbench.runs.files import write_text
from sdbench.runs.record import Run, load


def report(
    run_dirs: Sequence[Path | str],
    out: Path | str | None = None,
    page: bool = True,
    highlight: Collection[str] = (),
    png: bool = False,
) -> Path:
    """Write `report.md`, `report.tex`, `table.csv`, the figures and, as one page of all, `report.html`.

    `batch.json` is added where the runs allow a comparison of back-ups by batch size.

    Args:
        run_dirs: folders of finished runs. Each run has a section of its own, because arms of different runs are not paired.
        out: where to write; None: `report/` in the folder of the first run.
        page: whether to write `report.html` too, which holds texts of the runs.
        highlight: names of arms, or of arms of grids, that the figures draw larger and with a dark rim.
        png: whether to write each figure as PNG too. SVG is always written.

    Returns:
        The path of `report.md`.

    Raises:
        InputError: no folder was named, one is not the folder of a finished run, or a name to highlight is no arm.
    """
    if not run_dirs:
        raise InputError("no run was named; name the folder of at least one finished run")
    runs = [load(directory) for directory in run_dirs]
    _check_highlight(highlight, runs)
    folder = Path(out) if out is not None else runs[0].path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    several = len(runs) > 1
    # Two folders may hold two measurements of the same run, so the number is part of the name.
    places = [
        Path("figures") / f"{number}-{run.run_id}" if several else Path("figures") for number, run in enumerate(runs, 1)
    ]
    sections = []
    for run, place in zip(runs, places, strict=True):
        _clear(folder / place)
        drawn = {path.stem for path in draw(run.summary, folder / place, highlight, png)}
        sections.append(section(run, place, [name for name in FIGURES if name in drawn]))
    write_text(folder / "report.md", "# Comparison\n\n" + _batches(runs, folder, png) + "\n".join(sections))
    write_text(folder / "table.csv", every_metric(runs).csv())
    write_text(folder / "report.tex", _latex(runs))
    if page:
        write_text(folder / "report.html", html_page(runs, [folder / place for place in places]))
    return folder / "report.md"


def show(summary: Mapping[str, Any]) -> None:
    """Print a summary's table to the terminal."""
    comparison(summary).show()


def _check_highlight(names: Collection[str], runs: Sequence[Run]) -> None:
    arms = list(dict.fromkeys(arm for run in runs for arm in run.summary["arms"]))
    for name in names:
        if name not in arms and name not in map(style.family, arms):
            raise InputError(f"--highlight {name}: there is no such arm; the arms are: {', '.join(arms)}.")


def _clear(folder: Path) -> None:
    """Remove the figures of an earlier report, which would appear as figures of this one."""
    for old in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if old.stem in FIGURES:
            old.unlink()


def _batches(runs: Sequence[Run], folder: Path, png: bool) -> str:
    """Write the data of batch size against back-up over all runs; the figure in Markdown where there are several runs."""
    found = crossover([run.summary for run in runs])
    if found is None:
        return ""
    write_text(folder / "batch.json", json.dumps(found, indent=2) + "\n")
    if len(runs) == 1:
        return ""
    with style.context(runs[0].summary["arms"]):
        made = ssd.batch(found)
        assert made is not None
        style.save(made, folder / "figures", "batch", png)
    title = FIGURES["batch"].title
    return f"## {title}\n\n{figure_link(title, Path('figures'), 'batch')}\n\n"


def _latex(runs: Sequence[Run]) -> str:
    """Write the comparison of each run, for `\\input` in a document that loads booktabs."""
    grids = [comparison(run.summary) for run in runs]
    tables = [
        replace(grid, title=f"Run {run.run_id}: {grid.title}.", label=run.run_id).latex()
        for run, grid in zip(runs, grids, strict=True)
    ]
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(tables)
