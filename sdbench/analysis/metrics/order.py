"""Test whether acceptance rises over the order of the prompts.

A drafter that keeps text of earlier prompts drafts better from prompt to prompt. Its speed then depends on the number,
the order and the likeness of the prompts. Where a prompt comes again, its own answer is the draft. A drafter that
starts anew with each sequence has no such trend.

The statistic is Spearman's rank correlation of the prompt's place in the run and its tokens per target call, within categories. So
prompts that are sorted by category make no trend. Its variance under random order is exact (the permutation law), and a normal
law gives p.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from scipy.stats import norm

from sdbench.analysis.stats.intervals import FEWEST_UNITS
from sdbench.analysis.tables import decode_tokens, ratio

ALPHA = 1e-3
"""The false-alarm rate of one arm."""


def order_trend(sequences: pd.DataFrame) -> dict[str, Any] | None:
    """Test the sequences of one arm, in the order in which they were decoded.

    Returns rho, the correlation within categories (NaN where acceptance is the same everywhere); p, one-sided, of no rise; and
    rises, whether p is below ALPHA. None with fewer than ten prompts.
    """
    counts = pd.DataFrame(
        {
            "prompt": sequences["prompt_id"],
            "category": sequences["category"].fillna(""),
            "tokens": decode_tokens(sequences),
            "calls": sequences["target_calls"],
        }
    )
    prompts = counts.groupby(["category", "prompt"], sort=False)[["tokens", "calls"]].sum()
    prompts = prompts[prompts["calls"] > 0]
    if len(prompts) < FEWEST_UNITS:
        return None
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(counts["prompt"]))}
    covariance = variance = spread_places = spread_values = 0.0
    for _, part in (prompts["tokens"] / prompts["calls"]).groupby(level="category"):
        places = part.index.get_level_values("prompt").map(order).to_series().rank().to_numpy()
        values = part.rank().to_numpy()
        if len(part) < 2:
            continue
        places, values = places - places.mean(), values - values.mean()
        spread = float((places**2).sum()), float((values**2).sum())
        covariance += float((places * values).sum())
        variance += spread[0] * spread[1] / (len(part) - 1)
        spread_places, spread_values = spread_places + spread[0], spread_values + spread[1]
    if variance == 0:
        return {"rho": math.nan, "p": 1.0, "rises": False}
    p = float(norm.sf(covariance / math.sqrt(variance)))
    return {"rho": covariance / math.sqrt(spread_places * spread_values), "p": p, "rises": p < ALPHA}


def updates(rounds: pd.DataFrame, seconds: float) -> dict[str, Any] | None:
    """Sum the updates of a draft that learns while it serves. None if there are none.

    seconds: the decode time that the updates are part of. Returns count, positions (what the updates learned from), seconds, and
    share, of that time.
    """
    if "update_seconds" not in rounds:
        return None
    made = rounds[rounds["update_seconds"].notna()]
    if made.empty:
        return None
    spent = float(made["update_seconds"].sum())
    positions = int(made["update_positions"].sum())
    return {"count": len(made), "positions": positions, "seconds": spent, "share": ratio(spent, seconds)}
