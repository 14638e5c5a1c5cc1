"""Show what the benchmarks of `experiments/benchmarks/` measured: tables in Markdown, and the figure of the scaling curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sdbench.analysis.figures.style import figure
from sdbench.analysis.report.grid import Column, Grid, estimate
from sdbench.papers.estimate import of_logs

PANELS = (
    ("tokens", "tokens", "new tokens"),
    ("batch", "rows", "sequences"),
    ("context", "context", "context (tokens)"),
    ("fan-out", "tokens", "branches"),
)
"""Curve, column and label of each panel of the scaling figure."""


def change_table(found: Mapping[str, Any]) -> Grid:
    """Show a comparison of two checkouts (`change.py`): speed after / before, and how many answers have the same tokens."""
    rows = [
        [arm, _ratio(one["ratio"], one["ci95"]), one["blocks"], f"{one['same']} of {one['answers']}"]
        for arm, one in found["arms"].items()
    ]
    return Grid(
        [Column("arm", code=True), _number("after / before [95 %]"), _number("blocks"), _number("same tokens")], rows
    )


def rounds_table(found: Sequence[Mapping[str, Any]]) -> Grid:
    """Show profiles of rounds (`rounds.py`): a row per part, a column per arm, in milliseconds."""
    columns = [(f"{one['execution']}, `{arm}`", parts) for one in found for arm, parts in one["arms"].items()]
    names = [name for _, parts in columns for name in parts if name not in ("rounds", *LAST_PARTS)]
    rows = [[part, *(parts.get(part) for _, parts in columns)] for part in (*dict.fromkeys(names), *LAST_PARTS)]
    return Grid([Column("part (ms)"), *(Column(head, ".3f") for head, _ in columns)], rows)


LAST_PARTS = ("around the forwards", "round")
"""The parts of a round that `rounds.py` names itself; all others are forwards."""


def fits_table(rows: pd.DataFrame) -> Grid:
    """Show straight lines through the scaling curves of the target: the time of a step at 0 and per unit."""
    cells = []
    for curve, over, label in PANELS:
        part = rows[(rows["curve"] == curve) & (rows["role"] == "target")]
        if len(part) > 1:
            at_zero, slope = fit_line(part, over)
            cells.append([label, 1e3 * at_zero, 1e3 * slope])
    return Grid([Column("over"), Column("step at 0 (ms)", ".3f"), Column("per unit (ms)", ".5f")], cells)


def fit_line(rows: pd.DataFrame, over: str) -> tuple[float, float]:
    """Return (seconds at 0, seconds per unit) of a curve, by least squares."""
    slope, at_zero = np.polyfit(rows[over].to_numpy(float), rows["seconds"].to_numpy(float), 1)
    return float(at_zero), float(slope)


def prepacked_table(found: Mapping[str, Any]) -> Grid:
    """Show the time of a step with plain and with blocked weights (`prepacked.py`): a row per number of tokens."""
    kinds = found["seconds"]
    rows = []
    for tokens in kinds["plain"]:
        times = [[1e3 * seconds for seconds in kinds[kind][tokens]] for kind in ("plain", "prepacked")]
        costs = [kinds[kind][tokens][0] / kinds[kind]["1"][0] for kind in ("plain", "prepacked")]
        rows.append([int(tokens), *(estimate(one[0], one[1:], 1) for one in times), *costs])
    heads = [_number("ms, plain [95 %]"), _number("ms, blocked [95 %]")]
    return Grid([Column("tokens"), *heads, Column("cost, plain", ".2f"), Column("cost, blocked", ".2f")], rows)


def shortcuts_table(rows: pd.DataFrame) -> Grid:
    """Show what each shortcut of the engine gains: the time of a token without it over the time with all of them.

    rows: `dtype, arm, variant, prompt, same_tokens, seconds_per_token`; the variant "all on" is the reference.
    """
    cells = []
    for (dtype, arm), part in rows.groupby(["dtype", "arm"], sort=False):
        times = part.pivot_table(index="prompt", columns="variant", values="seconds_per_token")
        for variant in dict.fromkeys(part["variant"]):
            if variant != "all on":
                found = of_logs(np.log(times[variant] / times["all on"]))
                same = part.loc[part["variant"] == variant, "same_tokens"]
                ratio = _ratio(found.value, found.ci95)
                cells.append([dtype, arm, variant, ratio, f"{same.sum()} of {len(same)}"])
    names = [Column("dtype"), Column("arm"), Column("variant")]
    return Grid([*names, _number("time without / with [95 %]"), _number("same tokens")], cells)


def scaling_figure(rows: pd.DataFrame) -> Figure:
    """Draw the time of a step against new tokens, sequences, context and branches; grey rings: random weights."""
    made = figure(7.2, 4.6)
    for index, (curve, over, label) in enumerate(PANELS):
        axes = made.add_subplot(2, 2, index + 1)
        part = rows[rows["curve"] == curve]
        groups = ["role"] if curve in ("tokens", "fan-out") else ["role", "tokens"]
        for key, line in part.groupby(groups):
            said = str(key[0]) if len(key) == 1 else f"{key[0]}, {key[1]} new tokens"
            axes.plot(line[over], 1e3 * line["seconds"], marker="o", markersize=3, linewidth=1, label=said)
            random = line[line["random"]]
            axes.plot(random[over], 1e3 * random["seconds"], "o", markersize=6, fillstyle="none", color="#888888")
        axes.set_xlabel(label)
        axes.set_ylabel("step (ms)")
        axes.set_ylim(bottom=0)
        if curve in ("context", "batch"):
            axes.set_xscale("log", base=2)
        axes.legend()
    return made


def _number(head: str) -> Column:
    return Column(head, align="right")


def _ratio(value: float, ci95: Sequence[float] | None) -> str:
    return estimate(value, ci95, 3, "x")
