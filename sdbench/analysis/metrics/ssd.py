"""Concurrent drafting: hits of a speculation cache, times of both sides, and the published forms on them (SSD, PEARL).

Each function takes the rows of one arm (`tables.of_arm`). A round hits if the cache held the speculation that it verifies.
The first
round of a sequence follows the prompt, not an outcome: with one row it hits if the cache held its first token.
`outcome_hit_rate` leaves these rounds out; the recorded ranks predict this rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sdbench.analysis.tables import Tables, decode_seconds, decode_steps, mean, ratio, target_rounds
from sdbench.theory import pearl
from sdbench.theory.ssd import (
    Rounds,
    best_draft_length,
    corollary_9,
    fit_exponent,
    geometric_fan_out,
    outcome_law,
    stationary_hit_rate,
    theorem_7,
)

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
RANKS = 8  # of the children whose acceptance is estimated
BUDGETS = (6, 8, 12, 16, 18, 24, 32, 48)
TIMELINE_ROUNDS = 8
_SEQUENCE = ["block", "repeat", "prompt_id"]


def speculates(rounds: pd.DataFrame) -> bool:
    """Tell whether the arm's draft has a speculation cache."""
    return "hit" in rounds and bool(rounds["hit"].notna().any())


def speculation(arm: Tables) -> dict[str, Any] | None:
    """Describe the speculation cache of an arm; None for an arm without one.

    Blocks whose draft process failed have no record of its rounds and are left out.
    """
    rounds = arm["rounds"]
    if not speculates(rounds):
        return None
    recorded = rounds.loc[rounds["asked"].notna(), ["block", "repeat"]].drop_duplicates()
    arm = {
        name: table if name == "bare" else table.merge(recorded, on=["block", "repeat"]) for name, table in arm.items()
    }
    rounds = arm["rounds"]
    cached = rounds[rounds["hit"].notna()].copy()
    if cached.empty:
        return None
    cached["hit"] = cached["hit"].astype(bool)
    cached["tokens"] = cached["accepted"] + 1
    cached[["before", "before_hit"]] = cached.groupby([*_SEQUENCE, "edge"])[["accepted", "hit"]].shift()
    following = cached.dropna(subset=["before"])
    times = _times(arm, cached)
    held, missed = cached[cached["hit"]], cached[~cached["hit"]]
    p_hit = float(cached["hit"].mean())
    after = following.groupby("before_hit")["hit"].mean().to_dict()
    inputs = Rounds(
        p_hit,
        mean(held["tokens"]),
        mean(missed["tokens"]) if len(missed) else 0.0,
        ratio(times["build"], times["verify"]),
        ratio(times["backup"], times["verify"]),
        times["verify"],
    )
    rows = len(cached) / max(cached["asked"].nunique(), 1)
    return {
        "rows": rows,
        "batch_size": int(cached.groupby(["block", "asked"]).size().max()),
        "hit_rate": p_hit,
        "outcome_hit_rate": mean(following["hit"]),
        "hit_rate_by_accepted": {int(k): float(v) for k, v in following.groupby("before")["hit"].mean().items()},  # pyright: ignore
        "hit_rate_after_hit": after.get(True),
        "hit_rate_after_miss": after.get(False),
        "stationary_hit_rate": stationary_hit_rate(after.get(True, 1.0), after.get(False, 0.0)),
        "tokens_per_round_on_hit": inputs.e_hit,
        "tokens_per_round_on_miss": inputs.e_miss,
        "seconds": times,
        # The rounds of a cache under an inner verifier are that verifier's rounds, not the target's.
        "theorem_7_tokens_per_second": _per_second(inputs, rows) if cached["verifier"].eq("target").all() else None,
        "best_draft_length": _best_length(times),
        "timeline": _timeline(arm, cached),
    }


def overlapped(arm: Tables, both: bool = True) -> dict[str, Any] | None:
    """Describe PEARL's times, with its published form on them and on the host's time, in which neither side works.

    None for an arm without a concurrent draft, or with a speculation cache. both: whether the arm has both of PEARL's
    verifications; the published form assumes them, so there is no prediction without one of them.
    """
    rounds = arm["rounds"]
    running = arm["steps"]["kind"].eq("run").any()  # a draft that never waits (AMUSD) has no rounds
    if "wanted" not in rounds or speculates(rounds) or running or not rounds["wanted"].notna().any():
        return None
    served = rounds[rounds["wanted"].notna()]
    once = served.drop_duplicates("asked")
    wait = float((once["answered"] - once["wanted"]).sum())
    count = arm["steps"].query("role == 'target' and kind == 'verify'").shape[0]
    wall = decode_seconds(arm["sequences"])
    forwards = arm["steps"].query("role == 'target' and kind == 'verify'")["seconds"]
    verify = mean(forwards)
    host = ratio(wall - wait - float(forwards.sum()), count)
    block = mean(once["replied"] - once["received"])
    window = int(served["proposed"].max())
    kept = float(rounds["accepted"].sum())
    a = ratio(kept, kept + float((rounds["accepted"] < rounds["proposed"]).sum()))
    rows = ratio(len(rounds), count)
    tokens = pearl.tokens_per_round(a, window) if window else float("nan")
    return {
        "acceptance": a,
        "window": window,
        "seconds": {"verify": verify, "host": host, "draft_block": block, "wait": ratio(wait, count)},
        "tokens_per_round": ratio(float(rounds["emitted"].sum()), len(rounds)),
        "predicted_tokens_per_round": tokens if both else None,
        "predicted_tokens_per_second": rows * tokens / (max(verify, block) + host) if both else None,
    }


def bounds_over_sd(arm: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Bound the speed-up over synchronous drafting of the same length by corollary 9, with that arm's drafting time.

    arm, others: parts of a summary. None without a cache or a hit, or where no arm drafts synchronously at the same length.
    """
    spec, length = arm["speculation"], arm["config"].get("draft_length")
    if not spec or spec["theorem_7_tokens_per_second"] is None or spec["tokens_per_round_on_hit"] is None:
        return None
    for name, other in others.items():
        drafting = (other["seconds_per_round"] or {}).get("draft draft")
        usable = drafting and other["tokens_per_target_call"] and spec["seconds"]["verify"]
        plain = (
            list(other["edges"]) == ["draft>target"] and other["lossless"] and other["config"].get("threads") is None
        )
        if plain and usable and other["config"].get("draft_length") == length and not other["speculation"]:
            t_sd = drafting / spec["seconds"]["verify"]
            low, high = corollary_9(
                spec["hit_rate"], spec["tokens_per_round_on_hit"], other["tokens_per_target_call"], t_sd
            )
            if not np.isfinite((low, high)).all():
                return None
            return {
                "over": name,
                "low": low,
                "high": high,
                "measured": ratio(arm["tokens_per_second"], other["tokens_per_second"]),
            }
    return None


def ranks(rounds: pd.DataFrame) -> dict[str, Any] | None:
    """Describe the ranks of outcomes in the draft's order, and the hit rate that follows for any fan-out. None without
    ranks."""
    if "rank" not in rounds or not rounds["rank"].notna().any():
        return None
    outer = target_rounds(rounds)
    logged = outer[outer["rank"].notna() & (outer["proposed"] > 0)]
    if logged.empty:
        return None
    length = int(logged["proposed"].max())
    whole = logged[logged["proposed"] == length]
    kept, rank = whole["accepted"].to_numpy(int), whole["rank"].to_numpy(int)
    law = np.bincount(kept, minlength=length + 1) / len(kept)
    a = ratio(float(kept.sum()), float(kept.sum() + (kept < length).sum()))
    r = fit_exponent(rank.tolist())
    return {
        "length": length,
        "outcomes": len(kept),
        "law": law.tolist(),
        "acceptance": a,
        "acceptance_by_rank": by_rank(kept, rank, length),
        "exponent": r,
        "missed": {str(width): float((rank > width).mean()) for width in WIDTHS},
        "missed_by_accepted": {
            str(k): {str(width): float((rank[kept == k] > width).mean()) for width in WIDTHS}
            for k in range(length + 1)
            if (kept == k).any()
        },
        "hit_rate": {
            str(budget): {
                "uniform": _held(
                    kept, rank, [budget // (length + 1) + (k < budget % (length + 1)) for k in range(length + 1)]
                ),
                "geometric": _held(kept, rank, list(geometric_fan_out(min(max(a, 0.01), 0.99), r, length, budget))),
            }
            for budget in BUDGETS
        },
        "predicted_law": outcome_law(a, length).tolist(),
    }


def by_rank(kept: np.ndarray, rank: np.ndarray, length: int) -> list[float]:
    """Estimate the probability that a node's child of each rank is the one that is kept: what Sequoia's planner wants.

    The child of rank 0 is the drafted token. A correction of rank r in the draft's order, without the rejected token, is the token
    that a further child of rank r would have held. So the estimate holds for the draft's most likely tokens as children.
    """
    wrong = rank[kept < length]
    tested = kept.sum() + len(wrong)
    return [
        ratio(float(kept.sum()), float(tested)),
        *(ratio(float((wrong == r).sum()), float(tested)) for r in range(1, RANKS)),
    ]


def _held(kept: np.ndarray, rank: np.ndarray, counts: list[int]) -> float:
    """Compute the share of outcomes that a fan-out holds."""
    return float((rank <= np.array(counts)[kept]).mean())


def _times(arm: Tables, cached: pd.DataFrame) -> dict[str, float]:
    """Compute the mean seconds of the target's side, of the draft's side and between them, over rounds after prefill.

    verify: a round of the target's process without the wait for the answer; wait: that wait, after hits and after misses.
    """
    once = cached.drop_duplicates("asked")
    held = once["hit"].astype(bool)
    if not once["asked"].is_unique or cached["asked"].duplicated().any():
        held = ~once["asked"].isin(cached.loc[~cached["hit"], "asked"])  # a batch hits where all of its rows hit
    steps = arm["steps"]
    wait = once["answered"] - once["wanted"]
    serve = once["replied"] - once["received"]
    rounds = len(once)
    wall = decode_seconds(arm["sequences"])

    def step(kind: str) -> float:
        return mean(steps.loc[(steps["kind"] == kind) & (steps["round"] >= 0), "seconds"])

    forwards = float(decode_steps(steps).query("kind == 'verify'")["seconds"].sum())
    return {
        "verify": ratio(wall - float(wait.sum()), rounds),
        "verify_forward": ratio(forwards, rounds),
        "wait_on_hit": mean(wait[held]),
        "wait_on_miss": mean(wait[~held]),
        "backup": mean(serve[~held]) if (~held).any() else 0.0,
        "serve_on_hit": mean(serve[held]),
        "transport": mean(once["answered"] - once["replied"]),
        "queue": mean(once["received"] - once["asked"]),
        "build": mean((once["built"] - once["replied"]).dropna()),
        "glue": step("glue"),
        "tree": step("tree"),
        "idle": mean((once.groupby(_SEQUENCE)["received"].shift(-1) - once["built"]).dropna()),
    }


def _best_length(times: Mapping[str, float]) -> int | None:
    """Compute the longest draft whose cache is built within a verification; None where a part was never timed."""
    parts = (times["verify"], times["glue"], times["tree"])
    return best_draft_length(*parts) if np.isfinite(parts).all() and times["tree"] > 0 else None


def _per_second(inputs: Rounds, rows: float) -> float:
    """Compute theorem 7 (corollary 16 in a batch) in tokens per second, on the arm's own times and hits."""
    return max(rows, 1.0) * ratio(theorem_7(inputs, max(1, round(rows))), inputs.t_verify)


def _timeline(arm: Tables, cached: pd.DataFrame) -> list[dict[str, Any]]:
    """List the work of both sides in some successive rounds of one sequence, in milliseconds from their start."""
    first = cached.iloc[len(cached) // 2]
    same = cached[(cached[_SEQUENCE] == first[_SEQUENCE]).all(axis=1)].sort_values("asked").head(TIMELINE_ROUNDS)
    begin, end = float(same["asked"].min()), float(same["answered"].max())
    bars: list[dict[str, Any]] = []

    def bar(lane: str, kind: str, start: float, stop: float) -> None:
        if begin <= start < end:
            bars.append(
                {"lane": lane, "kind": kind, "start_ms": 1e3 * (start - begin), "stop_ms": 1e3 * (stop - begin)}
            )

    for _, row in same.iterrows():
        bar("target", "wait (hit)" if row["hit"] else "wait (miss)", row["wanted"], row["answered"])
        bar("draft", "serve (hit)" if row["hit"] else "back-up", row["received"], row["replied"])
    if "begun" in arm["steps"]:
        steps = arm["steps"]
        for _, step in steps[
            steps["kind"].isin(["verify", "glue", "tree", "branch"]) & steps["begun"].between(begin, end)
        ].iterrows():
            lane, kind = "target" if step["kind"] == "verify" else "draft", str(step["kind"]).replace("branch", "tree")
            bar(lane, kind, float(step["begun"]), float(step["begun"] + step["seconds"]))
    return bars
