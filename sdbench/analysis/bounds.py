"""What bounds an arm's speed, and where its time goes: from the steps, the bare forwards and the rounds.

Each function takes the rows of one arm (`rows.of_arm`). Steps are taken to follow one another, as they do in every
sequential arm; an arm whose models work side by side needs its critical path first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdbench.analysis.rows import (
    TARGET,
    Tables,
    batch_rounds,
    decode_seconds,
    decode_steps,
    decode_tokens,
    interpolate,
    ratio,
    target_rounds,
)

_SHAPE = ["role", "rows", "tokens", "loop"]
WHOLE_COVERAGE = 0.99
"""Below this share of step time with a bare forward of its shape, `ModelTime.fraction` is a lower bound; it warns."""


@dataclass(frozen=True)
class ModelTime:
    """How an arm's decode wall time divides: fraction + step_overhead + host = 1.

    fraction: time of the bare forwards of the shapes that were stepped. step_overhead: what `step` takes beyond the
    bare forward (slots, masks, copies). host: outside any step (rules, sampling, the loop). coverage: share of the
    steps' time whose shape has a bare forward; a step without one adds nothing to `fraction`, which is then a lower
    bound.
    """

    fraction: float
    step_overhead: float
    host: float
    coverage: float


def bare_seconds(steps: pd.DataFrame, bare: pd.DataFrame) -> pd.Series:
    """The bare forward of each step's shape, in seconds, by the step's index; NaN where none was measured.

    It is the median of the shape's, times the pace of the machine just then: the median ratio of the bare forwards that were timed
    behind that part of the block to the medians of their shapes. Exact in (role, rows, tokens) and the length of the loop; linear
    in the context between the measured ones, held beyond them.
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
    """How slow the machine was when a step was made, 1.0 as a rule (and throughout, where it was not recorded)."""
    if "after" not in bare:
        return 1.0
    ratios = bare["seconds"] / bare.groupby([*_SHAPE, "context"])["seconds"].transform("median")
    by_part = ratios.groupby([bare["after"], bare["block"], bare["repeat"]]).median()
    parts = pd.MultiIndex.from_frame(steps[["arm", "block", "repeat"]])
    return pd.Series(by_part.reindex(parts).fillna(1.0).to_numpy(), index=steps.index)


def model_time(arm: Tables) -> ModelTime:
    """How much of the decode wall time the models' own forwards would have taken (`docs/design.md`, DESIGN 5)."""
    steps = decode_steps(arm["steps"])
    wall, stepped = decode_seconds(arm["sequences"]), steps["seconds"].sum()
    bare = bare_seconds(steps, arm["bare"])
    measured = bare.notna()
    coverage = ratio(steps.loc[measured, "seconds"].sum(), stepped)
    if not measured.any():
        return ModelTime(float("nan"), float("nan"), ratio(wall - stepped, wall), coverage)
    if coverage < WHOLE_COVERAGE:
        warnings.warn(
            f"bare forwards cover {coverage:.0%} of the step time: model_time_fraction is a lower bound", stacklevel=2
        )
    return ModelTime(
        fraction=ratio(bare.sum(), wall),
        step_overhead=ratio(stepped - bare.sum(), wall),
        host=ratio(wall - stepped, wall),
        coverage=coverage,
    )


def uncompiled_steps(steps: pd.DataFrame) -> int:
    """Steps after prefill, on the critical path or beside it, that ran eagerly in another mode for want of a program."""
    decoded = steps[steps["kind"] != "prefill"]
    return int(decoded["missed"].eq(True).sum()) if "missed" in decoded else 0


def seconds_per_round(arm: Tables) -> dict[str, float]:
    """Where the time of a round goes: mean seconds of a batch round in each `role kind`, and on the `host`."""
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
        # What the back-up took is part of the wait for it.
        backup = float(steps.loc[steps["kind"] == "backup", "seconds"].sum())
        parts["wait"] = (float((waits["answered"] - waits["wanted"]).sum()) - backup) / rounds
    return {**parts, "host": decode_seconds(arm["sequences"]) / rounds - sum(parts.values())}


def verify_seconds(steps: pd.DataFrame, role: str = TARGET) -> pd.Series:
    """Median seconds of a forward of `role` by its number of new tokens, over the given steps."""
    stepped = decode_steps(steps)
    return stepped[stepped["role"] == role].groupby("tokens")["seconds"].median()


def oracle_length_tokens_per_second(arm: Tables, verify: pd.Series) -> float:
    """Tokens per second had each round drafted exactly as many tokens as were going to be accepted.

    A bound on every length policy within the lengths that were drafted: a round that accepted all it drafted might have
    accepted more, which the log cannot know. From each round's time are taken the drafting of the tokens that were
    rejected (at the arm's mean drafting time per proposed token) and the difference between verifying n + 1 and a + 1
    tokens (at the measured verification times, linear in between). In a batch the longest row of a round sets its
    length.

    Args:
        arm: the arm's rows.
        verify: the target's step times (`verify_seconds` of all arms of the run on this hardware: `ar` gives that of a
            single token).
    """
    rounds = target_rounds(arm["rounds"])
    if not rounds["proposed"].any():
        return float("nan")
    own = decode_steps(arm["steps"])
    own_verify = own["role"].eq(TARGET) & own["kind"].eq("verify")
    longest = rounds.groupby(["block", "repeat", "round"])[["proposed", "accepted"]].max()
    drafting = ratio(own.loc[~own_verify, "seconds"].sum(), longest["proposed"].sum())
    tokens, seconds = verify.index.to_numpy(), verify.to_numpy()
    proposed, accepted = longest["proposed"].to_numpy(), longest["accepted"].to_numpy()
    shorter = interpolate(proposed + 1, tokens, seconds) - interpolate(accepted + 1, tokens, seconds)
    saved = drafting * (proposed - accepted).sum() + np.maximum(shorter, 0.0).sum()
    return ratio(decode_tokens(arm["sequences"]).sum(), decode_seconds(arm["sequences"]) - float(saved))
