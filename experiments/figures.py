"""A paper's figures from its kept cells, as SVG, and what those of both papers share. One whose cells were not run is left out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib import import_module

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.cells import Cells, NotRun
from sdbench.analysis import style


def draw(paper: str, cells: Cells) -> list[str]:
    """Draw all figures of a paper into `figures/` beside the cells; their names."""
    figures: Mapping[str, Callable[[Cells], Figure | None]] = import_module(f"experiments.{paper}.figures").FIGURES
    folder = cells.folder / "figures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drawn = []
    with style.context():
        for name, make in figures.items():
            try:
                made = make(cells)
            except NotRun:
                continue
            if made is not None:
                made.savefig(folder / f"{name}.svg", metadata={"Date": None})
                drawn.append(name)
    return drawn


def heat(axes: Axes, table: pd.DataFrame, title: str, digits: int, labels: tuple[str, str]) -> None:
    """A heat map of a table (rows upwards), with its numbers. labels: of the columns and of the rows."""
    values = table.to_numpy(dtype=float)
    axes.imshow(values, origin="lower", cmap="viridis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = "white" if value <= middle else "black"
            axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=shade, fontsize=8)
    axes.set_xticks(range(table.shape[1]), [f"{value:g}" for value in table.columns])
    axes.set_yticks(range(table.shape[0]), [f"{value:g}" for value in table.index])
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title)


def dots(
    axes: Axes,
    x: float,
    value: float,
    ci95: tuple[float, float] | list[float] | None,
    arm: str,
    label: str | None = None,
) -> None:
    """A point with its interval, in the arm's colour and marker."""
    shade = style.colour(arm)
    if ci95 is not None:
        axes.plot([x, x], list(ci95), color=shade, linewidth=1.5, zorder=2)
    axes.plot(x, value, style.marker(arm), color=shade, markersize=5.5, label=label, zorder=3, linestyle="none")


def predicted(cells: Cells, cell: str) -> Figure:
    """Predicted against measured tokens per second, a point per arm, with a band of 10 %."""
    made = style.figure(4.2, 3.8)
    axes = made.subplots()
    seen: set[str] = set()
    most = 0.0
    for run in cells.starting(cell).values():
        for name, arm in run.summary["arms"].items():
            measured, said = arm["tokens_per_second"], arm["predicted_tokens_per_second"]
            if measured and said:
                family = style.family(name)
                axes.plot(
                    measured,
                    said,
                    style.marker(name),
                    color=style.colour(name),
                    label=None if family in seen else family,
                    markersize=5,
                    linestyle="none",
                )
                seen.add(family)
                most = max(most, measured, said)
    line = np.array([0, 1.08 * most])
    axes.plot(line, line, color="#555555", linewidth=0.8)
    axes.fill_between(line, 0.9 * line, 1.1 * line, color="#DDDDDD", linewidth=0, zorder=0)
    axes.set_xlim(0, line[1])
    axes.set_ylim(0, line[1])
    axes.set_xlabel("measured (tokens/s)")
    axes.set_ylabel("predicted (tokens/s); band: 10 %")
    axes.legend()
    return made
