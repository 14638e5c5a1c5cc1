"""Figures of overlapped drafting, drawn from `summary.json` alone. A function returns None if it has nothing to show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from sdbench.analysis import style
from sdbench.analysis.marks import tell

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
    """Some successive rounds of the first arm with a cache: what target and draft did, side by side."""
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
            lane, width, left=bar["start_ms"], height=0.62, color=_KINDS[bar["kind"]], edgecolor="white", linewidth=0.4
        )
        tell(drawn[0], name, f"{bar['kind']}, {width:.3g} ms from {bar['start_ms']:.3g} ms on")
    axes.set_yticks(range(len(_LANES)), _LANES)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"time (ms), some rounds of {name}")
    used = {bar["kind"] for bar in bars}
    handles = [Patch(color=colour, label=kind) for kind, colour in _KINDS.items() if kind in used]
    made.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7, handlelength=1.0)
    return made


def fan_out(summary: Summary) -> Figure | None:
    """Left: the outcomes that F tokens at every place miss, and the power law. Right: two fan-outs at equal budget, and live."""
    arms = {name: arm["ranks"] for name, arm in summary["arms"].items() if arm.get("ranks") and not arm["speculation"]}
    if not arms:
        return None
    made = style.figure(7.2, 3.0)
    left, right = made.subplots(1, 2)
    for name, logged in arms.items():
        points = [(int(width), share) for width, share in logged["missed"].items() if share > 0]
        colour, label = style.colour(name), f"{name}: r = {logged['exponent']:.2f}"
        (dots,) = left.loglog(*zip(*points, strict=True), style.marker(name), color=colour, markersize=4, label=label)
        tell(dots, name, *[f"fan-out {width} misses {share:.4f}" for width, share in points])
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
        if budget is not None and arm["config"].get("draft_length") == logged["length"]:
            colour, mark = style.colour(live), style.marker(live)
            rate = arm["speculation"]["outcome_hit_rate"]
            (dot,) = right.plot(budget, rate, mark, color=colour, markersize=5, label=f"{live}, live")
            tell(dot, live, f"hit rate {rate:.3f} at {budget} branches")
    right.set_xlabel("budget (branches)")
    right.set_ylabel("hit rate of outcomes")
    right.legend(fontsize=7)
    for axes in (left, right):
        axes.grid()
    return made


def draft_length(summary: Summary) -> Figure | None:
    """Speed-up against the draft length, a line per family of arms that was swept over it."""
    swept: dict[str, list[tuple[int, float]]] = {}
    for name, arm in summary["arms"].items():
        length = arm["config"].get("draft_length")
        if isinstance(length, int) and arm["speedup"] is not None and not arm.get("void"):
            rest = re.sub(r"draft_length=\d+,?", "", name, count=1).replace("[]", "").replace(",]", "]")
            swept.setdefault(rest, []).append((length, arm["speedup"]))
    lines = {name: sorted(points) for name, points in swept.items() if len(points) > 1}
    if not lines:
        return None
    made = style.figure(5.2, 3.2)
    axes = made.subplots()
    for name, points in lines.items():
        (line,) = axes.plot(
            *zip(*points, strict=True), color=style.colour(name), marker=style.marker(name), markersize=4, label=name
        )
        tell(line, name, *[f"{gain:.3f}× at K = {length}" for length, gain in points])
    axes.set_xlabel("draft length K (tokens)")
    axes.set_ylabel(f"speed-up over {summary['baseline']} (×)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    made.legend(loc="outside right upper")
    return made


def saguaro(summary: Summary) -> Figure | None:
    """Hit rate and acceptance against C of Saguaro sampling, where it was swept."""
    points = []
    for arm in summary["arms"].values():
        c = ((arm["config"].get("proposer") or {}).get("saguaro") or {}).get("c")
        if arm.get("speculation") and c is not None:
            points.append((c, arm["speculation"]["outcome_hit_rate"], arm["acceptance_rate"]))
    if len({c for c, _, _ in points}) < 2:
        return None
    points.sort()
    made = style.figure(4.6, 3.0)
    axes = made.subplots()
    cs, hits, accepted = zip(*points, strict=True)
    (upper,) = axes.plot(cs, hits, "o-", color="#AA4499", markersize=4, label="hit rate of outcomes")
    (lower,) = axes.plot(cs, accepted, "s--", color="#332288", markersize=4, label="acceptance rate")
    tell(upper, "", *[f"hit rate {hit:.3f} at C = {c}" for c, hit in zip(cs, hits, strict=True)])
    tell(lower, "", *[f"acceptance rate {rate:.3f} at C = {c}" for c, rate in zip(cs, accepted, strict=True)])
    axes.set_xlabel("C of Saguaro sampling")
    axes.set_ylabel("share")
    axes.grid()
    made.legend(loc="outside upper center", ncols=2)
    return made


def predicted(summary: Summary) -> Figure | None:
    """Measured against predicted tokens per second, an arm a point; the band is 10 %."""
    arms = {
        name: arm
        for name, arm in summary["arms"].items()
        if arm.get("predicted_tokens_per_second") is not None and arm["tokens_per_second"] is not None
    }
    if len(arms) < 2:
        return None
    made = style.figure(4.4, 3.4)
    axes = made.subplots()
    for name, arm in arms.items():
        forecast, speed = arm["predicted_tokens_per_second"], arm["tokens_per_second"]
        (dot,) = axes.plot(
            forecast,
            speed,
            style.marker(name),
            color=style.colour(name),
            markersize=5,
            label=style.family(name),
        )
        tell(dot, name, f"{speed:.1f} tokens per second, {forecast:.1f} predicted")
    speeds = [arm["tokens_per_second"] for arm in arms.values()]
    ends = np.array([0.9 * min(speeds), 1.15 * max(speeds)])
    axes.plot(ends, ends, color="#555555", linewidth=0.8)
    axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color="#DDDDDD", zorder=0)
    axes.set_xlabel("predicted (tokens per second)")
    axes.set_ylabel("measured (tokens per second)")
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    made.legend(once.values(), once.keys(), loc="outside right upper")
    return made


def budget_of(arm: Mapping[str, Any]) -> int | None:
    """The branches of an arm's fan-out."""
    knobs = arm["config"]["proposer"].get("fan_out") or {}
    if "budget" in knobs:
        return knobs["budget"]
    if "per_length" in knobs:
        return knobs["per_length"] * (arm["config"]["draft_length"] + 1)
    return sum(knobs["after_hit"]) if "after_hit" in knobs else None
