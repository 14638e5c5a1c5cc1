"""Throughput of nested speculative decoding, from acceptance and speeds; and the same from a run's own measurements.

PyramidSD's model (arXiv 2510.12966; its equations as given in the secondary sources that could be read), with beta
the share of a round's l + 1 places that yield a token, and V a model's speed in tokens per second when it decodes
alone:

    V_SD      = beta_TD (l_D + 1) / (l_D / V_D         + 1 / V_T)
    V_QD      = beta_QD (l_D + 1) / (l_D / V_D         + 1 / V_Q)
    V_pyramid = beta_TQ (l_Q + 1) / (l_Q / V_QD        + 1 / V_T)

Three things in it are not so, and `predict` mends them:

- A verification takes T_v(n), the time of a forward over n tokens, not 1 / V, that of one token.
- A pyramid does not run l_Q / (tokens per inner round) inner rounds: the last one overshoots, or is cut. The expected
  number of inner rounds until l_Q tokens are there is a renewal sum over the law of an inner round's yield
  (`rounds_until`).
- 1 / V contains the host's time once per forward; a step time does not. What the arm that decodes alone spends is
  added back to each verification (it is the rule, the stop and the bookkeeping; a drafting step has next to none).

What `predict` still leaves out: the host's time for the rule, the proposer and the buffers, beyond what a forward has
in the baseline; tokens that a model has missed and that ride in its next step, but for their effect on the mean step
time; in a batch, that a round lasts as long as its slowest row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

TARGET = "target"


def speculative_throughput(beta: float, length: float, draft_speed: float, verifier_speed: float) -> float:
    """V_SD: tokens per second of one proposer under one verifier, every speed in tokens per second.

    Args:
        beta: share of the length + 1 places of a round that yield a token, in 1 / (length + 1) .. 1.
        length: drafted tokens per round.
        draft_speed: of the proposer, which may itself be a verified pair.
        verifier_speed: of the verifier when it decodes alone.
    """
    return beta * (length + 1) / (length / draft_speed + 1 / verifier_speed)


def pyramid_throughput(
    betas: Sequence[float], lengths: Sequence[float], draft_speed: float, verifier_speeds: Sequence[float]
) -> float:
    """V_pyramid of any height: the stages from the draft outwards, one beta, length and verifier speed each."""
    speed = draft_speed
    for beta, length, verifier_speed in zip(betas, lengths, verifier_speeds, strict=True):
        speed = speculative_throughput(beta, length, speed, verifier_speed)
    return speed


def expected_tokens(alpha: float, length: int) -> float:
    """Tokens per round if each drafted token passes with probability a: (1 - a^(l+1)) / (1 - a) (2211.17192, eq. 1)."""
    return float(length + 1) if alpha == 1 else (1 - alpha ** (length + 1)) / (1 - alpha)


def rounds_until(wanted: int, yields: Mapping[int, float]) -> float:
    """Expected number of rounds until their yields add up to `wanted` tokens.

    Args:
        wanted: tokens, 0 or more.
        yields: the law of a round's yield, {tokens >= 1: probability}.
    """
    expected = [0.0]
    for missing in range(1, wanted + 1):
        expected.append(1 + sum(p * expected[max(missing - n, 0)] for n, p in yields.items()))
    return expected[wanted]


def host_seconds_per_step(tables: Mapping[str, pd.DataFrame], arm: str) -> float:
    """Decode wall time of an arm outside its steps, per step: for the baseline, what the loop costs a forward."""
    sequences, steps = _of(tables["sequences"], arm), _decoding(tables["steps"], arm)
    wall = sequences.drop_duplicates(["block", "repeat"])["block_decode_seconds"].sum()
    return max(0.0, float(wall - steps["seconds"].sum()) / len(steps)) if len(steps) else 0.0


def predict(
    tables: Mapping[str, pd.DataFrame],
    arm: str,
    lengths: Mapping[str, int] | None = None,
    host_seconds: float = 0.0,
) -> float:
    """Tokens per second that the model above gives for an arm, on its own mean step times and acceptance.

    Not circular: neither the number of steps nor any total of seconds enters, only the mean time of a step of each
    (role, kind), each edge's tokens per round and law of yields, and the lengths. So a cost that the model does not
    know shows as a gap to the measured speed.

    Args:
        tables: the run's tables.
        arm: the arm's name: decoding alone, one edge, or a pyramid of any height (a chain of edges up to the target).
        lengths: the configured draft length of a stage by its verifier. An inner pair is asked for the length of the
            stage above it, and runs until it has them. Without an entry the mean proposed length is taken, and fractional inner
            rounds.
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
    by_verifier = {str(verifier): part for verifier, part in rounds.groupby("verifier")}
    outer = by_verifier[TARGET]
    batch = steps.drop_duplicates(["block", "repeat", "round"])
    rows = len(outer) / len(batch)  # sequences that take part in a batch round, on average
    seconds = _round_seconds(TARGET, by_verifier, times, lengths or {})
    return rows * float(outer["emitted"].mean()) / seconds


def _round_seconds(
    verifier: str, rounds: Mapping[str, pd.DataFrame], times: Mapping[Any, float], lengths: Mapping[str, int]
) -> float:
    """Expected seconds of one round of a verifier: its forward, and what it takes to propose to it."""
    stage = rounds[verifier]
    proposer = str(stage["proposer"].iloc[0])
    verify = times.get((verifier, "verify"), times.get((verifier, "draft"), 0.0))
    if proposer not in rounds:
        # A proposer without steps of its own (a look-up) costs nothing here.
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
    """An arm's steps after prefill on the critical path."""
    own = _of(steps, arm)
    return own[(own["kind"] != "prefill") & (own["concurrent"].ne(True) if "concurrent" in own else True)]
