"""The times of a stage, as a warm-up shows them: what length policies weigh against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from sdbench.lm.trace import Trace


@dataclass(frozen=True)
class StageTimes:
    """Hold the seconds of a stage.

    verify: seconds of a verification, by the number of tokens that the verifier reads. drafting: seconds of the proposer's steps
    for one verification. drafted: tokens of a draft, on average.
    """

    verify: dict[int, float]
    drafting: float
    drafted: float


def stage_times(trace: Trace, verifier: str, proposers: Collection[str]) -> StageTimes | None:
    """Return the times of the stage of `verifier`; None if it verified no draft.

    trace: of a warm-up, closed. proposers: the names of all models below the verifier.

    A disturbance of the machine only adds time, and a warm-up is short. So each time is the lower quartile.
    """
    verified: dict[int, list[float]] = defaultdict(list)
    below: dict[int, float] = defaultdict(float)
    calls: Counter[int] = Counter()
    for step in trace.steps:
        if step["round"] < 0:
            continue
        if step["role"] == verifier and step["kind"] == "verify":
            verified[step["tokens"]].append(step["seconds"])
            calls[step["round"]] += 1
        elif step["role"] in proposers:
            below[step["round"]] += step["seconds"]
    drafted = [row["proposed"] for row in trace.rounds if row["verifier"] == verifier and row["proposed"]]
    drafting = [below[number] / count for number, count in calls.items() if below[number]]
    if not drafted or not drafting:
        return None
    verify = {tokens: float(np.quantile(seconds, 0.25)) for tokens, seconds in sorted(verified.items())}
    return StageTimes(verify, float(np.quantile(drafting, 0.25)), float(np.mean(drafted)))
