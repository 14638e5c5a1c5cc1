"""Calibration of a draft model: does it know which of its tokens will be accepted?

A length policy that looks at the draft's probabilities, such as `confidence`, can be no better than they are. A drafted token is
counted if the verifier kept all tokens before it, so that it was judged. Token trees are left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

BINS = 10  # equal parts of [0, 1]


def judged(rounds: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the draft's probability of each judged token [N], and whether it was accepted [N]."""
    probabilities: list[float] = []
    kept: list[bool] = []
    for given, accepted, proposed in zip(
        rounds["draft_probabilities"], rounds["accepted"], rounds["proposed"], strict=True
    ):
        if given is None or isinstance(given, float):  # another proposer's round
            continue
        tried = min(accepted + 1, proposed)
        probabilities += list(given[:tried])
        kept += [place < accepted for place in range(tried)]
    return np.array(probabilities), np.array(kept, bool)


def calibration(rounds: pd.DataFrame) -> dict[str, Any] | None:
    """Compare the draft's probabilities with acceptance, over the given rounds of one edge. None without probabilities.

    tokens: judged drafted tokens. mean_probability, accepted: their means.
    brier: mean squared difference of probability and acceptance (Brier 1950); 0 is best.
    ece: expected calibration error over `BINS` bins of equal width (Guo et al., 1706.04599): the mean of the bins' differences
    of mean probability and accepted share, weighted by their tokens.
    auroc: the chance that an accepted token has a higher probability than a rejected one, ties half; NaN if one kind is missing.
    bins: of each bin that holds tokens: low, high, tokens, mean_probability, accepted.
    """
    if "draft_probabilities" not in rounds:
        return None
    chains = rounds[rounds["nodes"].isna()] if "nodes" in rounds else rounds
    given, kept = judged(chains)
    if not given.size:
        return None
    place = np.minimum((given * BINS).astype(int), BINS - 1)
    bins = [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "tokens": int(inside.sum()),
            "mean_probability": float(given[inside].mean()),
            "accepted": float(kept[inside].mean()),
        }
        for number in range(BINS)
        if (inside := place == number).any()
    ]
    return {
        "tokens": int(given.size),
        "mean_probability": float(given.mean()),
        "accepted": float(kept.mean()),
        "brier": float(np.mean((given - kept) ** 2)),
        "ece": sum(one["tokens"] * abs(one["mean_probability"] - one["accepted"]) for one in bins) / given.size,
        "auroc": _auroc(given, kept),
        "bins": bins,
    }


def _auroc(given: np.ndarray, kept: np.ndarray) -> float:
    good, bad = given[kept], given[~kept]
    if not (good.size and bad.size):
        return math.nan
    return float(mannwhitneyu(good, bad).statistic / (good.size * bad.size))
