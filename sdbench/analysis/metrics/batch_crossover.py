"""Batch size against back-up: from which batch size on does a fast back-up beat the neural one?

In lock step any row that misses delays the whole batch (SSD, 2603.03251, corollary 16). So a large batch pays the time of a
neural back-up in nearly every round. A back-up that drafts worse, but at once, wins from some batch size b* on (theorem
17).

Corollary 16 predicts each of the two from its own measured times, hit rate and tokens per round. These are known at the
measured batch sizes; between them they are interpolated, beyond them constant. The input is `summary.json` alone, of one
run or of several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from sdbench.theory.ssd import Rounds, crossover_batch, theorem_7

Summary = Mapping[str, Any]

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)
KINDS = ("neural", "fast")
_FIELDS = tuple(field.name for field in fields(Rounds))


def crossover(summaries: Sequence[Summary]) -> dict[str, Any] | None:
    """Predict and measure both back-ups; None unless runs with the same cache have both.

    Returns:
        `arms` by kind, `predicted` and `measured` curves, and three batch sizes, null where there is none.
        `b_star_theorem_17` is the closed form at the smallest batch size that was measured with both: with the neural back-up's
        hit rate, and a fast back-up of no cost. `b_star_predicted` is where the two predicted curves cross. `b_star_measured`
        is the smallest batch size at which the fast back-up was measured to be no slower.
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


def predict(measured: Sequence[Mapping[str, Any]], batch: float) -> float:
    """Predict the tokens per second of a batch by corollary 16, from the measured points of one back-up."""
    rounds = _at(measured, batch)
    return batch * theorem_7(rounds, batch) / rounds.t_verify


def _points(summaries: Sequence[Summary]) -> tuple[dict[str, str], dict[str, list[dict[str, Any]]]] | None:
    """Find the first pair of arms that differ in the back-up alone, and the measured points of each, by rows."""
    by_cache: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    for summary in summaries:
        for name, arm in summary["arms"].items():
            cache = arm.get("speculation")
            if not cache or arm["tokens_per_second"] is None or not _has_hits_and_misses(cache):
                continue
            knobs = arm["config"].get("proposer") or {}
            backup = str((knobs.get("backup") or {}).get("_target_", "Neural"))
            kind = "neural" if backup.endswith("Neural") else "fast"
            rest = [arm["config"].get("draft_length"), knobs.get("fan_out")]
            arms = by_cache.setdefault(json.dumps(rest, sort_keys=True), {"neural": {}, "fast": {}})
            arms[kind].setdefault(name, []).append(_point(arm, cache))
    for arms in by_cache.values():
        if arms["neural"] and arms["fast"]:
            names = {kind: next(iter(arms[kind])) for kind in KINDS}
            return names, {kind: sorted(arms[kind][names[kind]], key=lambda point: point["rows"]) for kind in KINDS}
    return None


def _has_hits_and_misses(cache: Mapping[str, Any]) -> bool:
    """Tell whether a cache has both: without hits, or without misses, there is nothing to compare."""
    needed = [cache.get("rows"), *(cache[f"tokens_per_round_on_{what}"] for what in ("hit", "miss"))]
    needed += [cache["seconds"].get(part) for part in ("build", "backup", "verify")]
    return None not in needed and 0 < cache["hit_rate"] < 1


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
    """Interpolate the inputs of theorem 7 at a batch size."""
    rows = [point["rows"] for point in measured]
    return Rounds(**{name: float(np.interp(batch, rows, [point[name] for point in measured])) for name in _FIELDS})


def _crossing(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> float | None:
    """Find the smallest batch size, in hundredths of a row, at which the fast back-up's prediction is no lower."""
    for batch in np.arange(BATCHES[0], BATCHES[-1] + 0.005, 0.01):
        if predict(measured["fast"], float(batch)) >= predict(measured["neural"], float(batch)):
            return round(float(batch), 2)
    return None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
