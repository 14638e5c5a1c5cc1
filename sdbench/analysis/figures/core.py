"""Figures of speed, acceptance and quality. Each function draws a summary; it returns None if it has nothing to show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sdbench.analysis.figures import point_labels, style
from sdbench.analysis.figures.svg_titles import describe

Summary = Mapping[str, Any]

_WIDTH = 6.4  # inches
_ROW = 0.24  # inches per arm in figures with a row each
_LETTER = 0.06  # inches for each letter of a long name
_HEAD = 0.95  # inches for the axis, its label and the legend
_MANY = 12  # arms; a legend of more lists families


def speedup(summary: Summary) -> Figure | None:
    """Draw the speed-up over the baseline with its 95 % interval, a row per arm; hollow if the arm is lossy."""
    return _gains(summary, "speedup", "speed-up")


def end_to_end(summary: Summary) -> Figure | None:
    """Draw the speed-up end to end, prefill included, if an arm has no other speed."""
    if all(arm.get("tokens_per_second") is not None for arm in summary["arms"].values()):
        return None
    return _gains(summary, "end_to_end_speedup", "end-to-end speed-up")


def _gains(summary: Summary, metric: str, words: str) -> Figure | None:
    arms = {name: arm for name, arm in _with(summary, metric).items() if not arm.get("void")}
    if not arms:
        return None
    made, axes = _rows(arms)
    for row, (name, arm) in enumerate(arms.items()):
        low, high = arm[f"{metric}_ci95"] or (arm[metric], arm[metric])
        shade, size = style.colour(name), 7.5 if style.highlighted(name) else 5.5
        (line,) = axes.plot([low, high], [row, row], color=shade, linewidth=1.8, solid_capstyle="butt", zorder=3)
        face = shade if arm["lossless"] else "white"
        (dot,) = axes.plot(arm[metric], row, "o", markersize=size, color=shade, markerfacecolor=face, zorder=4)
        for mark in (line, dot):
            describe(mark, name, f"{arm[metric]:.3f}× [{low:.3f}, {high:.3f}]{'' if arm['lossless'] else ', lossy'}")
    axes.axvline(1.0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=2)
    axes.set_xlabel(f"{words} over {summary['baseline']} (×)")
    _from_zero(axes, max((arm[f"{metric}_ci95"] or [arm[metric]])[-1] for arm in arms.values()))
    interval = Line2D([], [], color="#555555", linewidth=1.8, label="95 % interval")
    made.legend(
        handles=[_dot("lossless", "#555555"), _dot("lossy", "white"), interval], loc="outside upper right", ncols=3
    )
    return made


def tokens_per_target_call(summary: Summary) -> Figure | None:
    """Draw the emitted tokens per target forward, a bar per arm."""
    arms = _with(summary, "tokens_per_target_call")
    if not arms:
        return None
    made, axes = _rows(arms)
    values = [arm["tokens_per_target_call"] for arm in arms.values()]
    bars = axes.barh(range(len(arms)), values, height=0.68, color=[style.colour(name) for name in arms], zorder=3)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7.5)
    for bar, name, value in zip(bars, arms, values, strict=True):
        describe(bar, name, f"{value:.3f} tokens per target call")
    axes.axvline(1.0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=4)
    axes.set_xlabel("tokens per target call (bonus included)")
    _from_zero(axes, max(values), room=1.1)
    return made


def acceptance(summary: Summary) -> Figure | None:
    """Draw the acceptance by position, unconditional, a panel per edge."""
    arms = _arms(summary)
    names = sorted({edge for arm in arms.values() for edge in arm["edges"]}, key=_outermost_first)
    if not names:
        return None
    made, panels = _panels(len(names))
    for panel, edge in zip(panels, names, strict=True):
        shown = {
            name: arm["edges"][edge]["acceptance_by_position"] for name, arm in arms.items() if edge in arm["edges"]
        }
        for name, shares in shown.items():
            _curve(panel, name, edge, shares, len(shown))
        panel.set_title(edge.replace(">", " → "))
        panel.set_xlabel("position in the draft (tokens)")
        panel.set_ylim(0, 1.04)
        panel.set_xlim(0.5, max(map(len, shown.values())) + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(axis="y")
    made.supylabel("P(accepted ≥ position)", fontsize=9)
    _legend_right(made, {name: arm for name, arm in arms.items() if arm["edges"]})
    return made


def calibration(summary: Summary) -> Figure | None:
    """Draw the accepted share of drafted tokens against the draft's probability (a reliability diagram), a panel per edge."""
    found: dict[str, dict[str, Any]] = {}
    for name, arm in _arms(summary).items():
        for edge, about in arm["edges"].items():
            if about.get("calibration") is not None:
                found.setdefault(edge, {})[name] = about["calibration"]
    if not found:
        return None
    names = sorted(found, key=_outermost_first)
    made, panels = _panels(len(names))
    for panel, edge in zip(panels, names, strict=True):
        panel.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        for name, one in found[edge].items():
            points = [(part["mean_probability"], part["accepted"], part["tokens"]) for part in one["bins"]]
            (line,) = panel.plot(
                [given for given, _, _ in points],
                [kept for _, kept, _ in points],
                color=style.colour(name),
                marker=style.marker(name),
                markersize=3.5,
                linewidth=1.0,
            )
            said = [
                f"{edge}, probability {given:.2f}: {kept:.3f} of {tokens} tokens accepted"
                for given, kept, tokens in points
            ]
            describe(line, name, *said)
        panel.set_title(edge.replace(">", " → "))
        panel.set_xlabel("probability by the draft")
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.04)
        panel.grid()
    made.supylabel("accepted share", fontsize=9)
    _legend_right(
        made, {name: arm for name, arm in _arms(summary).items() if any(name in one for one in found.values())}
    )
    return made


def speed_quality(summary: Summary) -> Figure | None:
    """Draw quality against speed-up with both 95 % intervals, and the Pareto front."""
    arms = {
        name: arm
        for name, arm in _with(summary, "speedup").items()
        if arm["quality"] is not None and not arm.get("void")
    }
    if not arms:
        return None
    made = style.figure(_WIDTH, 3.9 if len(arms) <= _MANY else 4.7)
    axes = made.subplots()
    for name, arm in arms.items():
        _point(axes, name, arm, crowded=len(arms) > _MANY)
    points = [(arm["speedup"], arm["quality"]) for arm in arms.values()]
    front = pareto_front(points)
    axes.step(*zip(*[points[i] for i in front], strict=True), where="pre", color="#333333", linewidth=0.9, zorder=2)
    axes.set_xlabel(f"speed-up over {summary['baseline']} (×)")
    axes.set_ylabel("quality (mean score)")
    axes.grid()
    axes.margins(0.09)
    extra = [Line2D([], [], color="#333333", linewidth=0.9, label="Pareto front")]
    _legend_right(made, arms, extra)
    if len(arms) <= _MANY:
        point_labels.place(axes, points, list(enumerate(arms)))
    else:
        _number_front(made, axes, points, front, list(arms))
    return made


def round_time(summary: Summary) -> Figure | None:
    """Draw the parts of a round's time: milliseconds by model and kind of step, and on the host."""
    arms = {
        name: {**arm, "parts": parts}
        for name, arm in _arms(summary).items()
        if (parts := {part: seconds for part, seconds in arm["seconds_per_round"].items() if seconds is not None})
    }
    if not arms:
        return None
    parts = sorted({part for arm in arms.values() for part in arm["parts"]}, key=_target_first)
    colours = style.part_colours(parts)
    made, axes = _rows(arms)
    left = np.zeros(len(arms))
    for part in parts:
        widths = np.array([1000 * arm["parts"].get(part, 0.0) for arm in arms.values()]).clip(min=0)
        bars = axes.barh(
            range(len(arms)),
            widths,
            left=left,
            height=0.68,
            color=colours[part],
            label=part.replace(" ", ": "),
            zorder=3,
        )
        for bar, name, width in zip(bars, arms, widths, strict=True):
            describe(bar, name, f"{part.replace(' ', ': ')}, {width:.3g} ms per round")
        left += widths
    for row, (arm, total) in enumerate(zip(arms.values(), left, strict=True)):
        per_call = arm["tokens_per_target_call"]
        text = f"{total:.3g}" + (f"  ({total / per_call:.3g} per token)" if per_call else "")
        axes.text(total, row, f" {text}", va="center", fontsize=7)
    axes.set_xlabel("time per round (ms)")
    _from_zero(axes, left.max(), room=1.28)
    made.legend(loc="outside upper center", ncols=min(4, len(parts)))
    return made


def predicted(summary: Summary) -> Figure | None:
    """Draw measured against predicted tokens per second, a point per arm; the band is 10 %."""
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
        describe(dot, name, f"{speed:.1f} tokens per second, {forecast:.1f} predicted")
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


def draft_length(summary: Summary) -> Figure | None:
    """Draw speed-up against the draft length, a line per family of arms that was swept over it."""
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
        describe(line, name, *[f"{gain:.3f}× at K = {length}" for length, gain in points])
    axes.set_xlabel("draft length K (tokens)")
    axes.set_ylabel(f"speed-up over {summary['baseline']} (×)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    made.legend(loc="outside right upper")
    return made


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Find the points that no other beats in both coordinates (larger is better): their indices, by the first coordinate."""
    best, front = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front[::-1]


def _arms(summary: Summary) -> dict[str, Any]:
    return dict(summary["arms"])


def _with(summary: Summary, metric: str) -> dict[str, Any]:
    return {name: arm for name, arm in _arms(summary).items() if arm.get(metric) is not None}


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with so many panels, which share the vertical axis."""
    columns = count if count <= 3 else 2 if count == 4 else 3
    rows = -(-count // columns)
    made = style.figure(max(4.2, 2.5 * columns + 1.3), 2.3 * rows + 0.5)
    panels = list(made.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for panel in panels[count:]:
        panel.set_visible(False)
    return made, panels[:count]


def _rows(arms: Mapping[str, Any]) -> tuple[Figure, Axes]:
    """Make a figure with a labelled row per arm, the first on top; the names of highlighted arms are bold."""
    longest = max(map(len, arms))
    made = style.figure(_WIDTH + _LETTER * max(0, longest - 16), _HEAD + _ROW * max(3, len(arms)))
    axes = made.subplots()
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    for tick, name in zip(axes.get_yticklabels(), arms, strict=True):
        tick.set_fontweight("bold" if style.highlighted(name) else "normal")
    return made, axes


def _from_zero(axes: Axes, largest: float, room: float = 1.05) -> None:
    axes.set_xlim(0, largest * room if largest > 0 else 1)


def _curve(axes: Axes, name: str, edge: str, shares: list[float], crowd: int) -> None:
    crowded = crowd > _MANY
    (line,) = axes.plot(
        range(1, len(shares) + 1),
        shares,
        color=style.colour(name),
        marker=style.marker(name),
        alpha=0.45 if crowded else 1.0,
        linewidth=1.0 if crowded else 1.6,
        markersize=2.5 if crowded else 4.0,
    )
    describe(line, name, *[f"{edge}, position {k}: {share:.3f}" for k, share in enumerate(shares, start=1)])


def _point(axes: Axes, name: str, arm: Mapping[str, Any], crowded: bool) -> None:
    shade, highlighted = style.colour(name), style.highlighted(name)
    x, y = arm["speedup"], arm["quality"]
    (left, right), (low, high) = arm["speedup_ci95"] or (x, x), arm["quality_ci95"] or (y, y)
    axes.plot([left, right], [y, y], color=shade, linewidth=0.8, alpha=0.25 if crowded else 0.6, zorder=3)
    axes.plot([x, x], [low, high], color=shade, linewidth=0.8, alpha=0.25 if crowded else 0.6, zorder=3)
    (dot,) = axes.plot(
        x,
        y,
        style.marker(name),
        color=shade,
        markersize=7.5 if highlighted else 6,
        markeredgecolor="black" if highlighted else "white",
        markeredgewidth=1.0 if highlighted else 0.5,
        zorder=5 if highlighted else 4,
    )
    describe(dot, name, f"{x:.3f}× [{left:.3f}, {right:.3f}], quality {y:.3f} [{low:.3f}, {high:.3f}]")


def _number_front(
    made: Figure, axes: Axes, points: list[tuple[float, float]], front: list[int], names: list[str]
) -> None:
    """Number the arms on the front, and name them below the axes: the names of a grid are too long for a place at a point."""
    keys = [
        Line2D(
            [], [], linestyle="", color=style.colour(names[i]), marker=style.marker(names[i]), label=f"{n}: {names[i]}"
        )
        for n, i in enumerate(front, start=1)
    ]
    made.legend(handles=keys, loc="outside lower left", ncols=2, title="on the front", alignment="left")
    point_labels.place(axes, points, [(i, str(n)) for n, i in enumerate(front, start=1)])


def _legend_right(made: Figure, arms: Mapping[str, Any], extra: list[Line2D] | None = None) -> None:
    """Put a legend to the right of the axes: an entry per arm, or per family if there are many arms."""
    names = dict.fromkeys(style.family(name) if len(arms) > _MANY else name for name in arms)
    handles = [
        Line2D([], [], color=style.colour(name), marker=style.marker(name), markersize=5, linewidth=1.4, label=name)
        for name in names
    ]
    made.legend(handles=[*handles, *(extra or [])], loc="outside right center")


def _dot(label: str, face: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", color="#555555", markerfacecolor=face, markersize=5.5, label=label)


def _outermost_first(edge: str) -> tuple[bool, str]:
    return not edge.endswith(">target"), edge


def _target_first(part: str) -> tuple[bool, bool, str]:
    return part == "host", not part.startswith("target"), part
