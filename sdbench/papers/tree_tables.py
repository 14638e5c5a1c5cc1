"""Show what `experiments/benchmarks/trees.py` measured: the curves of T_v(n), and the tree that each curve recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from sdbench.analysis.figures.style import COLOURS, figure
from sdbench.analysis.report.grid import Column, Grid
from sdbench.topology import Topology


def curves_figure(found: Mapping[str, Any]) -> Figure:
    """Draw T_v(n) of each precision and mode, with the interval of each median. A ring marks the recommended tree."""
    made = figure(7.2, 3.4)
    axes = made.add_subplot()
    for colour, curve in zip(COLOURS, found["curves"], strict=False):
        points = curve["verification"]
        nodes, seconds = [point["nodes"] for point in points], [1e3 * point["seconds"] for point in points]
        axes.plot(nodes, seconds, color=colour, linewidth=1, label=_name(curve))
        low, high = ([1e3 * point[end] for point in points] for end in ("low", "high"))
        axes.fill_between(nodes, low, high, color=colour, alpha=0.2, linewidth=0)
        own = curve["tree"]["nodes"]
        if own:
            at = min(points, key=lambda point: abs(point["nodes"] - own))
            axes.plot([own], [1e3 * at["seconds"]], "o", color=colour, markersize=7, fillstyle="none")
    axes.set_xlabel("nodes of the tree")
    axes.set_ylabel("verification (ms)")
    axes.set_ylim(bottom=0)
    axes.legend()
    return made


def trees_table(found: Mapping[str, Any]) -> Grid:
    """Show the recommended tree of each curve, and what was predicted of it over what was measured."""
    rows = []
    for curve in found["curves"]:
        tree = curve["tree"]
        widths = Topology(tuple(tree["parents"])).widths if tree["nodes"] else ()
        ratio = tree.get("predicted_over_measured", {})
        shares = ", ".join(f"{share:.3f}" for share in tree["acceptance"])
        rows.append(
            [
                _name(curve),
                shares,
                tree["nodes"],
                ", ".join(map(str, widths)) or None,
                *(ratio.get(name) for name in ("round_seconds", "tokens_per_round", "seconds_per_token")),
                tree.get("speedup"),
            ]
        )
    return Grid(
        [
            Column("curve"),
            Column("acceptance by rank"),
            Column("nodes", "d"),
            Column("nodes by depth"),
            Column("time of a round, predicted / measured", ".3f"),
            Column("tokens of a round, predicted / measured", ".3f"),
            Column("time per token, predicted / measured", ".3f"),
            Column("speed-up", ".2f"),
        ],
        rows,
    )


def _name(curve: Mapping[str, Any]) -> str:
    return f"{curve['dtype']}, {curve['execution']}"
