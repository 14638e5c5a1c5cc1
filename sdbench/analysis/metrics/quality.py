"""Quality: the task's scores, the likelihood of answers, agreement with the baseline's answers, and the length of answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sdbench.analysis.stats.intervals import Estimate, percentile_interval, wilson_interval
from sdbench.analysis.stats.tests import is_binary
from sdbench.analysis.tables import emitted_tokens, mean

NATS_MARGIN = 0.05
"""Nats a token: below it, answers count as being as likely under the target as the baseline's."""


def prompt_scores(sequences: pd.DataFrame) -> pd.Series:
    """Average the scores of each prompt over its repeats, by prompt_id. Prompts without a score are left out."""
    return sequences.dropna(subset=["score"]).groupby("prompt_id")["score"].mean()


def quality(prompt_scores: pd.Series) -> Estimate:
    """Estimate the mean score over prompts: with Wilson's interval where every prompt is right or wrong, else the
    bootstrap's."""
    values = prompt_scores.to_numpy(dtype=float)
    if not len(values):
        return Estimate(float("nan"), None, 0)
    interval = wilson_interval(int(values.sum()), len(values)) if is_binary(values) else percentile_interval(values)
    return Estimate(float(values.mean()), interval, len(values))


def prompt_nats(sequences: pd.DataFrame) -> pd.Series:
    """Average the nats per token of each prompt's answers over its repeats, by prompt_id. Empty if no answer was scored."""
    if "nats" not in sequences:
        return pd.Series(dtype=float)
    per_token = sequences["nats"] / sequences["tokens"].map(len)
    return per_token.replace([np.inf, -np.inf], np.nan).groupby(sequences["prompt_id"]).mean().dropna()


def likelihood(sequences: pd.DataFrame, reference: pd.DataFrame) -> tuple[Estimate, Estimate]:
    """Estimate the nats per token of an arm's answers, and the difference to the reference arm's, paired by prompt."""
    ours, theirs = prompt_nats(sequences), prompt_nats(reference)
    return _mean_of(ours.to_numpy(dtype=float)), _mean_of((ours - theirs).dropna().to_numpy(dtype=float))


def as_likely(difference: Estimate) -> bool | None:
    """Say whether a difference of nats per token is shown to be below `NATS_MARGIN`; None without an interval."""
    return None if difference.ci95 is None else difference.ci95[1] < NATS_MARGIN


def _mean_of(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()) if len(values) else float("nan"), percentile_interval(values), len(values))


def agreement(sequences: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Compare the arm's answers with the reference arm's, over the (prompt, repeat) pairs that both have.

    identical: share of answers with exactly the reference's tokens. common_prefix: mean length of the common beginning,
    as a share of the longer of the two.
    """
    keys = ["prompt_id", "repeat"]
    pairs = sequences[[*keys, "tokens"]].merge(reference[[*keys, "tokens"]], on=keys, suffixes=("", "_reference"))
    shares = [_common(ours, theirs) for ours, theirs in zip(pairs["tokens"], pairs["tokens_reference"], strict=True)]
    return {
        "identical": float(np.mean([share == 1.0 for share in shares])) if shares else float("nan"),
        "common_prefix": float(np.mean(shares)) if shares else float("nan"),
    }


def length_rate(sequences: pd.DataFrame) -> float:
    """Compute the share of sequences that the length limit ended."""
    return mean(sequences["finish_reason"] == "length")


def output_tokens(sequences: pd.DataFrame) -> float:
    """Average the emitted tokens over sequences."""
    return mean(emitted_tokens(sequences))


def _common(ours: Any, theirs: Any) -> float:
    """Divide the length of the common beginning of two token lists by the length of the longer one; two empty lists agree."""
    a, b = np.asarray(ours), np.asarray(theirs)
    shorter, longer = min(len(a), len(b)), max(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return (int(differ[0]) if len(differ) else shorter) / longer if longer else 1.0
