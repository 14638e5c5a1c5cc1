"""Draw a paper's figures from its kept runs, as SVG; and the kinds of figure that papers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdbench.analysis.figures import style
from sdbench.papers.paper import Paper
from sdbench.papers.paper_results import NotRun, PaperResults


def draw(paper: Paper, results: PaperResults, folder: Path) -> dict[str, str]:
    """Draw the figures of a paper into a folder. A figure whose runs are missing is left out.

    Returns:
        By file name the title: the first line of the docstring of the function that drew the figure.
    """
    figures: Mapping[str, Callable[[PaperResults], Figure | None]] = paper.module("figures").FIGURES
    drawn = {}
    arms = [arm for name in results.names for arm in results[name].summary["arms"]]
    with style.context(arms):
        for name, make in figures.items():
            try:
                made = make(results)
            except NotRun:
                continue
            if made is not None:
                style.save(made, folder, name)
                drawn[f"{name}.svg"] = str(make.__doc__).partition("\n")[0].rstrip(".")
    return drawn


def heat(axes: Axes, table: pd.DataFrame, title: str, digits: int, labels: tuple[str, str]) -> None:
    """Draw a heat map of a table, rows upwards, with its numbers. labels: of the columns and of the rows."""
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
    """Draw a point with its interval, in the arm's colour and marker."""
    shade = style.colour(arm)
    if ci95 is not None:
        axes.plot([x, x], list(ci95), color=shade, linewidth=1.5, zorder=2)
    axes.plot(x, value, style.marker(arm), color=shade, markersize=5.5, label=label, zorder=3, linestyle="none")


def predicted(results: PaperResults, part: str) -> Figure:
    """Draw predicted against measured tokens per second, a point per arm, with a band of 10 %."""
    made = style.figure(4.2, 3.8)
    axes = made.subplots()
    seen: set[str] = set()
    most = 0.0
    for run in results.part(part).values():
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
