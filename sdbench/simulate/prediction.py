"""Predict an arm's tokens per second from the run's own mean step times, acceptance and draft lengths.

The model is `sdbench.theory.speculative` with three corrections:

- A verification takes T_v(n), the time of a forward over n tokens. The published form takes 1 / V, the time of one token.
- A pyramid does not run l_Q / (tokens per inner round) inner rounds, because the last one overshoots or is cut. The expected
  number of inner rounds is a renewal sum over the law of an inner round's yield (`rounds_until`).
- 1 / V contains the host's time once per forward; a step time does not. So each verification gets the host time of the arm that
  decodes alone. This is the time of the rule, the stop test and the bookkeeping; a drafting step has almost none.

The prediction leaves out three costs. The first is the additional host time of the rule, the proposer and the buffers. The second
is the tokens that a model reads late, except for their effect on the mean step time. The third is that a round of a batch lasts as
long as its slowest row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sdbench.theory.speculative import rounds_until

TARGET = "target"


def host_seconds_per_step(tables: Mapping[str, pd.DataFrame], arm: str) -> float:
    """Return the decode wall time of an arm outside its steps, per step. For the baseline it is the loop's cost of a forward."""
    sequences, steps = _of(tables["sequences"], arm), _decoding(tables["steps"], arm)
    wall = sequences.drop_duplicates(["block", "repeat"])["block_decode_seconds"].sum()
    return max(0.0, float(wall - steps["seconds"].sum()) / len(steps)) if len(steps) else 0.0


def predict(
    tables: Mapping[str, pd.DataFrame],
    arm: str,
    lengths: Mapping[str, int] | None = None,
    host_seconds: float = 0.0,
) -> float:
    """Return the tokens per second that the model above gives for an arm.

    The prediction is not circular: no number of steps and no total of seconds enters it. It uses the mean time of a step of each
    (role, kind), the tokens per round and the law of yields of each stage, and the draft lengths. A cost that the model does not
    know appears as a gap to the measured speed.

    Args:
        tables: the run's tables.
        arm: the arm's name. It decodes alone, or has one proposer, or is a pyramid of any height.
        lengths: the configured draft length of a stage by its verifier. An inner pair is asked for the length of the stage
            above it, and runs until it has them. Without an entry the mean proposed length counts, with fractional inner rounds.
        host_seconds: added to each verification (`host_seconds_per_step` of the baseline).

    Returns:
        Tokens per second; NaN if the arm has no decode steps.
    """
    steps, rounds = _decoding(tables["steps"], arm), _of(tables["rounds"], arm)
    if steps.empty or rounds.empty:
        return float("nan")
    times = {key: float(mean) for key, mean in steps.groupby(["role", "kind"])["seconds"].mean().items()}
    for key in times:
        if key[1] == "verify":  # pyright: ignore[reportIndexIssue]  # keys are (role, kind)
            times[key] += host_seconds
    for role, part in steps[steps["kind"] == "reread"].groupby("role"):  # a recurrent model, behind some rejections
        own = steps[(steps["role"] == role) & (steps["kind"] == "verify")]
        if len(own):
            times[role, "verify"] += float(part["seconds"].sum()) / len(own)
    by_verifier = {str(verifier): part for verifier, part in rounds.groupby("verifier")}
    outer = by_verifier[TARGET]
    batch = steps.drop_duplicates(["block", "repeat", "round"])
    rows = len(outer) / len(batch)  # sequences that take part in a batch round, on average
    seconds = _round_seconds(TARGET, by_verifier, times, lengths or {})
    return rows * float(outer["emitted"].mean()) / seconds


def _round_seconds(
    verifier: str, rounds: Mapping[str, pd.DataFrame], times: Mapping[Any, float], lengths: Mapping[str, int]
) -> float:
    """Return the expected seconds of one round of a verifier: its forward and the drafting before it."""
    stage = rounds[verifier]
    proposer = str(stage["proposer"].iloc[0])
    verify = times.get((verifier, "verify"), times.get((verifier, "draft"), 0.0))
    if proposer not in rounds:
        # A proposer without steps, such as a look-up, costs nothing here.
        return float(stage["proposed"].mean()) * times.get((proposer, "draft"), 0.0) + verify
    inner = rounds[proposer]
    proposed = stage["proposed"]
    if verifier in lengths:
        law = inner["emitted"].value_counts(normalize=True)
        yields = {int(n): float(p) for n, p in law.items()}  # pyright: ignore[reportArgumentType]
        wanted = proposed.clip(upper=lengths[verifier]).value_counts(normalize=True)
        inner_rounds = sum(float(p) * rounds_until(int(n), yields) for n, p in wanted.items())  # pyright: ignore
    else:
        inner_rounds = float(proposed.mean()) / float(inner["emitted"].mean())
    return inner_rounds * _round_seconds(proposer, rounds, times, lengths) + verify


def _of(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    return table[table["arm"] == arm]


def _decoding(steps: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return an arm's steps after prefill on the critical path."""
    own = _of(steps, arm)
    return own[(own["kind"] != "prefill") & (own["concurrent"].ne(True) if "concurrent" in own else True)]
