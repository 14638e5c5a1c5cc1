"""Batch size against back-up: from which batch size on does a fast back-up beat the neural one?

In lock step a batch is held up by any row that misses (SSD, 2603.03251, corollary 16). So in larger batches the time that a neural
back-up takes is spent nearly every round, and a back-up that drafts worse, but at once, wins from some b* on (theorem 17).

Each of the two is predicted by corollary 16 on its own measured times, hit rate and tokens per round. These are known at the batch
sizes that were measured: between them they are interpolated, beyond them held, as the corollary holds them throughout. Measured
points stand beside. What is read is `summary.json` alone, of one run or of several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from sdbench.analysis import style
from sdbench.theory.ssd import Rounds, crossover_batch, theorem_7

Summary = Mapping[str, Any]

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)
KINDS = ("neural", "fast")
_FIELDS = tuple(field.name for field in fields(Rounds))


def crossover(summaries: Sequence[Summary]) -> dict[str, Any] | None:
    """Both back-ups, predicted and measured, and where the fast one overtakes; None unless both were run with one cache.

    `b_star_theorem_17` is the closed form at the smallest batch size that was measured with both: with the neural back-up's hit
    rate, and a fast one that takes no time. `b_star_predicted` is where the two predicted curves cross, `b_star_measured` the
    smallest batch size at which the fast back-up was measured to be no slower. Null where it does not happen.
    """
    points = _points(summaries)
    if points is None:
        return None
    arms, measured = points
    predicted = {
        kind: [{"batch": b, "tokens_per_second": predict(measured[kind], b)} for b in BATCHES] for kind in KINDS
    }
    neural, fast = (_at(measured[kind], measured[kind][0]["rows"]) for kind in KINDS)
    own = {kind: {point["batch_size"]: point["tokens_per_second"] for point in measured[kind]} for kind in KINDS}
    both = sorted(own["neural"].keys() & own["fast"].keys())
    return {
        "arms": arms,
        "b_star_theorem_17": _finite(crossover_batch(neural.p_hit, neural.tokens, fast.tokens, neural.t_backup)),
        "b_star_predicted": _crossing(measured),
        "b_star_measured": next((b for b in both if own["fast"][b] >= own["neural"][b]), None),
        "predicted": predicted,
        "measured": measured,
    }


def figure(found: Mapping[str, Any] | None) -> Figure | None:
    """Tokens per second against the batch size: lines are predicted, points measured."""
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


def of_run(summary: Summary) -> Figure | None:
    """The figure of one run."""
    return figure(crossover([summary]))


def predict(measured: Sequence[Mapping[str, Any]], batch: float) -> float:
    """Tokens per second of a batch by corollary 16, on what was measured (points of one back-up)."""
    rounds = _at(measured, batch)
    return batch * theorem_7(rounds, batch) / rounds.t_verify


def _points(summaries: Sequence[Summary]) -> tuple[dict[str, str], dict[str, list[dict[str, Any]]]] | None:
    """The first pair of arms that differ in the back-up alone, and what was measured of each, by rows."""
    by_cache: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    for summary in summaries:
        for name, arm in summary["arms"].items():
            cache = arm.get("speculation")
            tokens = [None] if not cache else [cache[f"tokens_per_round_on_{what}"] for what in ("hit", "miss")]
            if not cache or cache.get("rows") is None or None in tokens or not 0 < cache["hit_rate"] < 1:
                continue  # without hits, or without misses, there is nothing to weigh against each other
            backup = str((arm["config"]["proposer"].get("backup") or {}).get("_target_", "Neural"))
            kind = "neural" if backup.endswith("Neural") else "fast"
            rest = [arm["config"]["draft_length"], arm["config"]["proposer"].get("fan_out")]
            arms = by_cache.setdefault(json.dumps(rest, sort_keys=True), {"neural": {}, "fast": {}})
            arms[kind].setdefault(name, []).append(_point(arm, cache))
    for arms in by_cache.values():
        if arms["neural"] and arms["fast"]:
            names = {kind: next(iter(arms[kind])) for kind in KINDS}
            return names, {kind: sorted(arms[kind][names[kind]], key=lambda point: point["rows"]) for kind in KINDS}
    return None


def _point(arm: Mapping[str, Any], cache: Mapping[str, Any]) -> dict[str, Any]:
    times = cache["seconds"]
    return {
        "batch_size": cache["batch_size"],
        "rows": cache["rows"],
        "tokens_per_second": arm["tokens_per_second"],
        "p_hit": cache["hit_rate"],
        "e_hit": cache["tokens_per_round_on_hit"],
        "e_miss": cache["tokens_per_round_on_miss"],
        "t_primary": times["build"] / times["verify"],
        "t_backup": times["backup"] / times["verify"],
        "t_verify": times["verify"],
    }


def _at(measured: Sequence[Mapping[str, Any]], batch: float) -> Rounds:
    """What theorem 7 is fed with at a batch size."""
    rows = [point["rows"] for point in measured]
    return Rounds(**{name: float(np.interp(batch, rows, [point[name] for point in measured])) for name in _FIELDS})


def _crossing(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> float | None:
    """The smallest batch size, in hundredths of a row, at which the fast back-up's prediction is no lower."""
    for batch in np.arange(BATCHES[0], BATCHES[-1] + 0.005, 0.01):
        if predict(measured["fast"], float(batch)) >= predict(measured["neural"], float(batch)):
            return round(float(batch), 2)
    return None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
