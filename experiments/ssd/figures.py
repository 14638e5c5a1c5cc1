"""Draw SSD's figures from the kept runs. The first line of each docstring is the figure's title."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sdbench.analysis.figures import ssd, style
from sdbench.analysis.results import Results
from sdbench.papers.estimate import of_logs, of_values
from sdbench.papers.figures import dots, predicted
from sdbench.papers.paper_results import PaperResults, arms_of

from .measures import BUDGET, PER_LENGTH, C, beside_published, rates


def table(results: PaperResults) -> Figure:
    """SSD over speculative (left) and autoregressive decoding (right); hollow marks are published, from other set-ups."""
    rows = beside_published(results)
    made = style.figure(7.4, 3.4)
    for axes, other in zip(made.subplots(1, 2), ("sd", "ar"), strict=True):
        for index, row in rows.iterrows():
            ours = str(row["source"]).startswith("ours")
            shade, place = style.colour("ssd"), float(str(index))
            axes.plot(
                [row[f"ssd_over_{other}_low"], row[f"ssd_over_{other}_high"]],
                [place, place],
                color=shade,
                linewidth=1.5,
            )
            axes.plot(
                row[f"ssd_over_{other}"],
                index,
                "o",
                color=shade,
                markerfacecolor=shade if ours else "white",
                markersize=5.5,
            )
        axes.axvline(1.0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlabel(f"ssd over {other} (×)")
        axes.set_yticks(
            range(len(rows)),
            [f"{row.family}: {row.task}" for row in rows.itertuples()] if other == "sd" else [""] * len(rows),
        )
        axes.invert_yaxis()
        axes.grid(axis="x")
    return made


def fan_out(results: PaperResults) -> Figure:
    """Hit rate and speed over the budget of branches, for geometric and uniform fan-out."""
    run, hits = results["shapes"], rates(results, "shapes", "hit")
    made = style.figure(7.0, 2.9)
    left, right = made.subplots(1, 2)
    for family in ("ssd", "ssd_uniform"):
        for index, arm in enumerate(arms_of(run, family)):
            budget = run.knob(arm, BUDGET) or run.knob(arm, PER_LENGTH) * (run.knob(arm, "draft_length") + 1)
            shown = {"ssd": "geometric", "ssd_uniform": "uniform"}[family] if index == 0 else None
            x = budget * (0.98 if family == "ssd" else 1.02)
            found = of_values(hits[arm])
            dots(left, x, found.value, found.ci95, family, shown)
            _speed(right, x, run, arm, family, shown)
    for axes, label in ((left, "hit rate"), (right, "speed over sd (×)")):
        axes.set_xlabel("branches")
        axes.set_ylabel(label)
        axes.grid(axis="y")
        axes.legend()
    return made


def saguaro(results: PaperResults) -> Figure:
    """Hit rate, acceptance and speed over C of Saguaro sampling."""
    run = results["saguaro"]
    made = style.figure(7.4, 2.7)
    panels = made.subplots(1, 3)
    for axes, of in zip(panels, ("hit", "acceptance"), strict=False):
        found = rates(results, "saguaro", of)
        for arm in arms_of(run, "ssd"):
            one = of_values(found[arm])
            dots(axes, run.knob(arm, C), one.value, one.ci95, "ssd")
        axes.set_ylabel({"hit": "hit rate", "acceptance": "acceptance rate"}[of])
    for arm in arms_of(run, "ssd"):
        _speed(panels[2], run.knob(arm, C), run, arm, "ssd")
    panels[2].set_ylabel(f"speed-up over {run.summary['baseline']} (×)")
    for axes in panels:
        axes.set_xlabel("C")
        axes.grid(axis="y")
    return made


def backup(results: PaperResults) -> Figure:
    """Speed with the neural back-up over speed with the fast one, by batch size."""
    made = style.figure(4.2, 2.9)
    axes = made.subplots()
    for run in results.part("batch").values():
        ours, theirs = (run.logs[arms_of(run, family)[0]] for family in ("ssd", "ssd_fast_backup"))
        found = of_logs(ours - theirs)
        dots(axes, run.config["batch_size"], found.value, found.ci95, "ssd")
    axes.axhline(1.0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch size")
    axes.set_ylabel("neural over fast back-up (×)")
    return made


def draft_length(results: PaperResults) -> Figure:
    """Speed of SSD and of speculative decoding by draft length."""
    run = results["draft_length"]
    made = style.figure(4.2, 2.9)
    axes = made.subplots()
    for family in ("sd", "ssd"):
        for index, arm in enumerate(arms_of(run, family)):
            _speed(axes, run.knob(arm, "draft_length"), run, arm, family, family if index == 0 else None)
    axes.set_xlabel("K (tokens)")
    axes.set_ylabel("speed over sd at the shortest K (×)")
    axes.legend()
    axes.grid(axis="y")
    return made


def temperature(results: PaperResults) -> Figure:
    """SSD over speculative decoding, hit rate and acceptance, by temperature."""
    made = style.figure(7.4, 2.7)
    panels = made.subplots(1, 3)
    for name, run in results.part("temperature").items():
        at = run.config["sampling"]["temperature"]
        _speed(panels[0], at, run, "ssd", "ssd")
        for axes, of in zip(panels[1:], ("hit", "acceptance"), strict=True):
            found = of_values(rates(results, name, of)["ssd"])
            dots(axes, at, found.value, found.ci95, "ssd")
    for axes, label in zip(panels, ("ssd over sd (×)", "hit rate", "acceptance rate"), strict=True):
        axes.set_xlabel("temperature")
        axes.set_ylabel(label)
        axes.grid(axis="y")
    return made


def pareto(results: PaperResults) -> Figure:
    """Tokens per second of one sequence against tokens per second of the machine, over batch sizes."""
    points = []
    for run in results.part("batch").values():
        for name, arm in run.summary["arms"].items():
            points.append(
                (name, run.config["batch_size"], 1 / arm["seconds_per_token"]["mean"], arm["tokens_per_second"])
            )
    frame = pd.DataFrame(points, columns=["arm", "batch", "latency", "throughput"]).sort_values("batch")
    made = style.figure(5.0, 3.4)
    axes = made.subplots()
    for name, part in frame.groupby("arm", sort=False):
        arm = str(name)
        axes.plot(
            part["latency"],
            part["throughput"],
            marker=style.marker(arm),
            color=style.colour(arm),
            label=arm,
            linewidth=1.2,
        )
        for row in part.itertuples():
            axes.annotate(
                str(row.batch), (row.latency, row.throughput), textcoords="offset points", xytext=(4, 3), fontsize=7
            )
    axes.set_xlabel("tokens/s of one sequence (numbers: batch size)")
    axes.set_ylabel("tokens/s of the machine")
    axes.legend()
    axes.grid()
    return made


def timeline(results: PaperResults) -> Figure | None:
    """Some rounds of SSD: the work of target and draft, side by side."""
    return ssd.timeline(next(iter(results.part("table").values())).summary)


def model(results: PaperResults) -> Figure:
    """Predicted against measured speed: theorem 7 for SSD, the sequential formula for the others."""
    return predicted(results, "table")


def _speed(axes, x: float, run: Results, arm: str, family: str, label: str | None = None) -> None:
    """Draw the speed-up of an arm with its interval."""
    found = run.summary["arms"][arm]
    dots(axes, x, found["speedup"], found["speedup_ci95"], family, label)


FIGURES = {
    "table": table,
    "fan_out": fan_out,
    "saguaro": saguaro,
    "backup": backup,
    "draft_length": draft_length,
    "temperature": temperature,
    "pareto": pareto,
    "timeline": timeline,
    "predicted": model,
}
