"""Divide an arm's decode time: reference forwards, the overhead of a step, and the host.

The functions assume that steps follow one another, as in every sequential arm. `tables.decode_steps` gives the critical path of
an arm whose models work at the same time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdbench.analysis.tables import TARGET, Tables, batch_rounds, decode_seconds, decode_steps, interpolate, ratio

_SHAPE = ["role", "rows", "tokens", "loop"]
WHOLE_COVERAGE = 0.99
"""Below this share of step time with a reference forward of its shape, `ModelTime.fraction` is a lower bound; it warns."""


@dataclass(frozen=True)
class ModelTime:
    """The parts of an arm's decode wall time: fraction + step_overhead + host = 1.

    fraction: reference forwards of the shapes that were stepped; step_overhead: the time of `step` beyond the reference forward
    (slots, masks, copies); host: outside any step (rules, sampling, the loop); coverage: share of the steps' time whose
    shape has a reference forward. A step without one adds nothing to `fraction`, which is then a lower bound.
    """

    fraction: float
    step_overhead: float
    host: float
    coverage: float


def bare_seconds(steps: pd.DataFrame, bare: pd.DataFrame) -> pd.Series:
    """Find the reference forward of each step's shape, in seconds, by the step's index; NaN where none was timed.

    The value is the median of the shape, times the pace of the machine at that moment. The pace is the median ratio of the
    reference forwards that were timed behind that part of the block to the medians of their shapes. The shape is exact in
    (role, rows, tokens) and the length of the loop; the context is linear between the timed ones, constant beyond them.
    """
    steps, bare = (table.assign(loop=table["loop"].fillna(1) if "loop" in table else 1) for table in (steps, bare))
    medians = bare.groupby([*_SHAPE, "context"])["seconds"].median().reset_index()
    curves = dict(iter(medians.groupby(_SHAPE)))
    found = pd.Series(np.nan, index=steps.index, dtype=float)
    for shape, part in steps.groupby(_SHAPE):
        curve = curves.get(shape)
        if curve is not None:
            at = part["context"].to_numpy(dtype=float)
            found.loc[part.index] = interpolate(at, curve["context"].to_numpy(), curve["seconds"].to_numpy())
    return found * _pace(steps, bare)


def _pace(steps: pd.DataFrame, bare: pd.DataFrame) -> pd.Series | float:
    """Compute how slow the machine was when each step was made, 1.0 as a rule. A run without the record has 1.0 throughout."""
    if "after" not in bare:
        return 1.0
    ratios = bare["seconds"] / bare.groupby([*_SHAPE, "context"])["seconds"].transform("median")
    by_part = ratios.groupby([bare["after"], bare["block"], bare["repeat"]]).median()
    parts = pd.MultiIndex.from_frame(steps[["arm", "block", "repeat"]])
    return pd.Series(by_part.reindex(parts).fillna(1.0).to_numpy(), index=steps.index)


def model_time(arm: Tables) -> ModelTime:
    """Divide the decode wall time of an arm. `fraction` is `model_time_fraction`: 1.0 is the limit of a sequential arm."""
    steps = decode_steps(arm["steps"])
    wall, stepped = decode_seconds(arm["sequences"]), steps["seconds"].sum()
    bare = bare_seconds(steps, arm["bare"])
    measured = bare.notna()
    coverage = ratio(steps.loc[measured, "seconds"].sum(), stepped)
    if not measured.any():
        host = ratio(wall - stepped, wall) if stepped else float("nan")
        return ModelTime(float("nan"), float("nan"), host, coverage)
    if coverage < WHOLE_COVERAGE:
        warnings.warn(
            f"reference forwards cover {coverage:.0%} of the step time: model_time_fraction is a lower bound",
            stacklevel=2,
        )
    return ModelTime(
        fraction=ratio(bare.sum(), wall),
        step_overhead=ratio(stepped - bare.sum(), wall),
        host=ratio(wall - stepped, wall),
        coverage=coverage,
    )


def uncompiled_steps(steps: pd.DataFrame) -> int:
    """Count the steps after prefill that ran in eager mode because no program fitted, on the critical path or off it."""
    decoded = steps[steps["kind"] != "prefill"]
    return int(decoded["missed"].eq(True).sum()) if "missed" in decoded else 0


def seconds_per_round(arm: Tables) -> dict[str, float]:
    """Divide the time of a round: mean seconds of a batch round in each `role kind`, and on the `host`. Empty without a
    round."""
    steps = decode_steps(arm["steps"])
    rounds = batch_rounds(arm["steps"])
    if not rounds:
        return {}
    parts = {
        f"{role} {kind}": float(seconds) / rounds
        for (role, kind), seconds in steps.groupby(["role", "kind"])["seconds"].sum().items()  # pyright: ignore
    }
    waits = arm["rounds"].drop_duplicates("asked") if "asked" in arm["rounds"] else None
    if waits is not None and waits["asked"].notna().any():
        # The time of the back-up is part of the wait for it.
        backup = float(steps.loc[steps["kind"] == "backup", "seconds"].sum())
        parts["wait"] = (float((waits["answered"] - waits["wanted"]).sum()) - backup) / rounds
    return {**parts, "host": decode_seconds(arm["sequences"]) / rounds - sum(parts.values())}


def verify_seconds(steps: pd.DataFrame, role: str = TARGET) -> pd.Series:
    """Compute the median seconds of a forward of `role` by its number of new tokens, over the given steps."""
    stepped = decode_steps(steps)
    return stepped[stepped["role"] == role].groupby("tokens")["seconds"].median()
