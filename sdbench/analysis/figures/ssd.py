"""Figures of a speculation cache (SSD). Each function draws a summary; it returns None if it has nothing to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, ScalarFormatter

from sdbench.analysis.figures import style
from sdbench.analysis.figures.svg_titles import describe
from sdbench.analysis.metrics.batch_crossover import KINDS, crossover

Summary = Mapping[str, Any]

_KINDS = {
    "verify": "#332288",
    "wait (hit)": "#DDCC77",
    "wait (miss)": "#CC6677",
    "serve (hit)": "#999933",
    "back-up": "#882255",
    "glue": "#44AA99",
    "tree": "#88CCEE",
}
_LANES = ("target", "draft")


def timeline(summary: Summary) -> Figure | None:
    """Draw the work of target and draft in some successive rounds of the first arm with a cache."""
    shown = {name: arm["speculation"]["timeline"] for name, arm in summary["arms"].items() if arm.get("speculation")}
    name, bars = next(iter(shown.items()), ("", []))
    if not bars:
        return None
    made = style.figure(7.2, 1.9)
    axes = made.subplots()
    for bar in bars:
        lane = _LANES.index(bar["lane"])
        width = bar["stop_ms"] - bar["start_ms"]
        drawn = axes.barh(
            lane,
            width,
            left=bar["start_ms"],
            height=0.62,
            color=_KINDS.get(bar["kind"]),
            edgecolor="white",
            linewidth=0.4,
        )
        describe(drawn[0], name, f"{bar['kind']}, {width:.3g} ms from {bar['start_ms']:.3g} ms on")
    axes.set_yticks(range(len(_LANES)), _LANES)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"time (ms), some rounds of {name}")
    used = {bar["kind"] for bar in bars}
    handles = [Patch(color=colour, label=kind) for kind, colour in _KINDS.items() if kind in used]
    made.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7, handlelength=1.0)
    return made


def fan_out(summary: Summary) -> Figure | None:
    """Draw, left, the share of outcomes that a fan-out of F misses, with the power law; right, hit rates at equal budgets."""
    arms = {
        name: arm["ranks"]
        for name, arm in summary["arms"].items()
        if arm.get("ranks") and not arm["speculation"] and any(arm["ranks"]["missed"].values())
    }
    if not arms:
        return None
    made = style.figure(7.2, 3.0)
    left, right = made.subplots(1, 2)
    for name, logged in arms.items():
        points = [(int(width), share) for width, share in logged["missed"].items() if share > 0]
        colour, label = style.colour(name), f"{name}: r = {logged['exponent']:.2f}"
        (dots,) = left.loglog(*zip(*points, strict=True), style.marker(name), color=colour, markersize=4, label=label)
        describe(dots, name, *[f"fan-out {width} misses {share:.4f}" for width, share in points])
        widths = np.array([width for width, _ in points])
        left.loglog(widths, widths ** -logged["exponent"], color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
    left.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_xlabel("fan-out F (tokens)")
    left.set_ylabel("P(rank > F): missed")
    left.legend(fontsize=7)
    name, logged = next(iter(arms.items()))
    budgets = [int(budget) for budget in logged["hit_rate"]]
    for kind, line in (("geometric", "-"), ("uniform", ":")):
        rates = [logged["hit_rate"][str(budget)][kind] for budget in budgets]
        right.plot(budgets, rates, line, color=style.colour(name), label=f"{kind}, by the ranks of {name}")
    for live, arm in summary["arms"].items():
        budget = budget_of(arm) if arm["speculation"] else None
        rate = arm["speculation"]["outcome_hit_rate"] if arm["speculation"] else None
        if None not in (budget, rate) and arm["config"].get("draft_length") == logged["length"]:
            colour, mark = style.colour(live), style.marker(live)
            (dot,) = right.plot(budget, rate, mark, color=colour, markersize=5, label=f"{live}, live")
            describe(dot, live, f"hit rate {rate:.3f} at {budget} branches")
    right.set_xlabel("budget (branches)")
    right.set_ylabel("hit rate of outcomes")
    right.legend(fontsize=7)
    for axes in (left, right):
        axes.grid()
    return made


def saguaro(summary: Summary) -> Figure | None:
    """Draw hit rate and acceptance against C of Saguaro sampling, if C was swept."""
    points = []
    for arm in summary["arms"].values():
        c = ((arm["config"].get("proposer") or {}).get("saguaro") or {}).get("c")
        point = (c, (arm.get("speculation") or {}).get("outcome_hit_rate"), arm["acceptance_rate"])
        if None not in point:
            points.append(point)
    if len({c for c, _, _ in points}) < 2:
        return None
    points.sort()
    made = style.figure(4.6, 3.0)
    axes = made.subplots()
    cs, hits, accepted = zip(*points, strict=True)
    (upper,) = axes.plot(cs, hits, "o-", color="#AA4499", markersize=4, label="hit rate of outcomes")
    (lower,) = axes.plot(cs, accepted, "s--", color="#332288", markersize=4, label="acceptance rate")
    describe(upper, "", *[f"hit rate {hit:.3f} at C = {c}" for c, hit in zip(cs, hits, strict=True)])
    describe(lower, "", *[f"acceptance rate {rate:.3f} at C = {c}" for c, rate in zip(cs, accepted, strict=True)])
    axes.set_xlabel("C of Saguaro sampling")
    axes.set_ylabel("share")
    axes.grid()
    made.legend(loc="outside upper center", ncols=2)
    return made


def budget_of(arm: Mapping[str, Any]) -> int | None:
    """Read the number of branches of an arm's fan-out from its config; None if the config does not state it."""
    knobs = (arm["config"].get("proposer") or {}).get("fan_out") or {}
    if "budget" in knobs:
        return knobs["budget"]
    if "per_length" in knobs:
        return knobs["per_length"] * (arm["config"]["draft_length"] + 1)
    return sum(knobs["after_hit"]) if "after_hit" in knobs else None


def batch(found: Mapping[str, Any] | None) -> Figure | None:
    """Draw tokens per second against the batch size (`batch_crossover.crossover`): lines are predicted, points measured."""
    if found is None:
        return None
    made = style.figure(5.2, 3.4)
    axes = made.subplots()
    for kind, line in zip(KINDS, ("-", "--"), strict=True):
        name = found["arms"][kind]
        colour = style.colour(name)
        curve = [(row["batch"], row["tokens_per_second"]) for row in found["predicted"][kind]]
        axes.plot(*zip(*curve, strict=True), line, color=colour, label=f"{name}, predicted")
        points = [(point["rows"], point["tokens_per_second"]) for point in found["measured"][kind]]
        mark = style.marker(name)
        axes.plot(*zip(*points, strict=True), mark, color=colour, markersize=5, label=f"{name}, measured")
    if found["b_star_predicted"] is not None:
        axes.axvline(found["b_star_predicted"], color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(found["b_star_predicted"], axes.get_ylim()[0], f" b* = {found['b_star_predicted']:.1f}", va="bottom")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rows in a batch round")
    axes.set_ylabel("tokens per second")
    axes.grid()
    made.legend(loc="outside upper center", ncols=2)
    return made


def batch_of_run(summary: Summary) -> Figure | None:
    """Draw the batch sizes of one run."""
    return batch(crossover([summary]))
