"""Draw PyramidSD's figures from the kept runs. The first line of each docstring is the figure's title."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sdbench.analysis.figures import core, style
from sdbench.analysis.results import Results
from sdbench.papers.figures import dots, heat, predicted
from sdbench.papers.paper_results import NotRun, PaperResults, arms_of

from .measures import LD, LQ, QUALIFIER, TARGET


def _table(run: Results, family: str, columns: str, rows: str, metric: str) -> pd.DataFrame:
    """Return a metric of a family's arms by two of their knobs."""
    points = [
        (run.knob(arm, rows), run.knob(arm, columns), run.summary["arms"][arm][metric]) for arm in arms_of(run, family)
    ]
    table = pd.DataFrame(points, columns=["row", "column", "value"]).pivot_table(
        index="row", columns="column", values="value"
    )
    if table.empty:
        raise NotRun(family)
    return table


def thresholds(results: PaperResults) -> Figure:
    """Speed-up and quality of the fuzzy variant over tau_Q and tau_T."""
    run = results["thresholds"]
    made = style.figure(7.0, 2.9)
    left, right = made.subplots(1, 2)
    labels = ("tau_T (target)", "tau_Q (qualifier)")
    heat(left, _table(run, "psd_fuzzy", TARGET, QUALIFIER, "speedup"), "PSD_F: speed-up over ar", 2, labels)
    heat(right, _table(run, "psd_fuzzy", TARGET, QUALIFIER, "quality"), "PSD_F: quality", 3, labels)
    return made


def lengths(results: PaperResults) -> Figure:
    """Speed-up and quality of both variants over l_Q and l_D."""
    run = results["lengths"]
    made = style.figure(7.0, 5.2)
    panels = made.subplots(2, 2)
    for line, (family, title) in zip(panels, (("psd_fuzzy", "PSD_F"), ("psd_assisted", "PSD_A")), strict=True):
        heat(line[0], _table(run, family, LQ, LD, "speedup"), f"{title}: speed-up over ar", 2, ("l_Q", "l_D"))
        heat(line[1], _table(run, family, LQ, LD, "quality"), f"{title}: quality", 3, ("l_Q", "l_D"))
    return made


def front(results: PaperResults) -> Figure | None:
    """Quality against speed-up, with both intervals and the Pareto front."""
    return core.speed_quality(results["thresholds"].summary)


def seeds(results: PaperResults) -> Figure:
    """The mean score of every seed, by arm."""
    run = results["seeds"]
    made = style.figure(5.2, 2.9)
    axes = made.subplots()
    arms = list(run.summary["arms"])
    for index, arm in enumerate(arms):
        scores = run.of(arm).groupby("repeat")["score"].mean()
        for score in scores:
            dots(axes, index, score, None, arm)
        axes.text(
            index, 1.02, f"sd {scores.std():.3f}", transform=axes.get_xaxis_transform(), ha="center", fontsize=7.5
        )
    axes.set_xticks(range(len(arms)), arms)
    axes.set_ylabel("quality, a point per seed")
    axes.grid(axis="y")
    return made


def acceptance_and_forwards(results: PaperResults) -> Figure:
    """Acceptance of each edge and forwards per answer, at the fastest point of each family."""
    run, counts = results["thresholds"], results.counts("thresholds")
    speeds = run.arms["speedup"].astype(float).fillna(0.0)
    arms = [max(arms_of(run, family), key=lambda arm: speeds[arm]) for family in dict.fromkeys(run.arms["family"])]
    edges = list(dict.fromkeys(edge for arm in arms for edge in run.summary["arms"][arm]["edges"]))
    forwards = (
        counts.groupby("arm")[[name for name in map(str, counts) if name.startswith("forwards_")]].mean().reindex(arms)
    )
    made = style.figure(7.4, 3.2)
    left, right = made.subplots(1, 2, sharey=True)
    height = 0.8 / max(len(edges), 1)
    for offset, edge in enumerate(edges):
        rates = [run.summary["arms"][arm]["edges"].get(edge, {}).get("acceptance_rate") or 0 for arm in arms]
        left.barh(
            [row + height * offset for row in range(len(arms))],
            rates,
            height=height,
            label=edge,
            color=style.COLOURS[offset],
        )
    start = pd.Series(0.0, index=arms)
    for offset, column in enumerate(map(str, forwards)):
        values = forwards[column].fillna(0.0)
        right.barh(
            range(len(arms)),
            values,
            left=start,
            label=column.removeprefix("forwards_"),
            color=style.COLOURS[3 + offset],
        )
        start += values
    left.set_yticks(range(len(arms)), [style.family(arm) for arm in arms])
    left.invert_yaxis()
    left.set_xlabel("acceptance rate of each edge")
    right.set_xlabel("forwards per answer")
    for axes, columns in ((left, 1), (right, 3)):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=7)
    return made


def model(results: PaperResults) -> Figure:
    """Speed predicted by the nested throughput model against measured speed."""
    return predicted(results, "thresholds")


FIGURES = {
    "thresholds": thresholds,
    "lengths": lengths,
    "front": front,
    "seeds": seeds,
    "acceptance_and_forwards": acceptance_and_forwards,
    "predicted": model,
}
