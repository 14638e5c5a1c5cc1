"""Differences between two groups of prompts that are not the same: wider than paired ones, since prompts differ among themselves.

For scores that are right or wrong: Agresti and Caffo's interval (2000) and Fisher's exact test; else the bootstrap, which
resamples each group on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sdbench.analysis.bootstrap import CONFIDENCE, RESAMPLES, SEED, Interval, Z, bootstrap_means
from sdbench.analysis.pairs import BOOTSTRAP, binary

FISHER = "fisher"


@dataclass(frozen=True)
class Difference:
    """The difference of two means (second - first), its 95 % interval, and the two-sided p of none, by `test`.

    Interval and p are None where a group has fewer than two values.
    """

    value: float
    ci95: Interval | None
    p: float | None
    test: str


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """The difference of the groups' means by the bootstrap."""
    if min(len(first), len(second)) < 2:
        value = float(second.mean() - first.mean()) if len(first) and len(second) else float("nan")
        return Difference(value, None, None, BOOTSTRAP)
    value = float(second.mean() - first.mean())
    # Each group has draws of its own.
    means = bootstrap_means(second, RESAMPLES, SEED) - bootstrap_means(first, RESAMPLES, SEED + 1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, (tail, 100 - tail))
    p = (int((np.abs(means - value) >= abs(value)).sum()) + 1) / (RESAMPLES + 1)
    return Difference(value, (float(low), float(high)), p, BOOTSTRAP)


def score_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """The difference of mean scores of two groups of prompts."""
    few = min(len(first), len(second)) < 2
    if few or not (binary(first) and binary(second)):
        return difference(first, second)
    from scipy.stats import fisher_exact

    right = [(int(group.sum()), len(group)) for group in (first, second)]
    shares = [(hits + 1) / (n + 2) for hits, n in right]
    half = Z * math.sqrt(sum(share * (1 - share) / (n + 2) for share, (_, n) in zip(shares, right, strict=True)))
    middle = shares[1] - shares[0]
    p = float(fisher_exact([[hits, n - hits] for hits, n in right]).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    return Difference(float(second.mean() - first.mean()), (middle - half, middle + half), p, FISHER)
