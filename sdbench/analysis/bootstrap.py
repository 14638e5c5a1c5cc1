"""The bootstrap of a mean (Efron 1979): percentile, BCa (Efron 1987: corrected for bias and skewness), and a p value.

The seed is fixed, so that the same rows give the same interval. Every function takes many samples at once where it says so.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 20_000
Z = 1.959963984540054
"""Normal quantile of CONFIDENCE, two-sided."""

_CHUNK = 2_000_000  # drawn values held at a time

Interval = tuple[float, float]


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Means of `resamples` resamples of values[..., n] -> [..., resamples]; rows share their draws."""
    generator = np.random.default_rng(seed)
    n = values.shape[-1]
    per_chunk = max(1, _CHUNK // values.size)
    chunks = [min(per_chunk, resamples - start) for start in range(0, resamples, per_chunk)]
    return np.concatenate([values[..., generator.integers(n, size=(m, n))].mean(axis=-1) for m in chunks], axis=-1)


def percentile_intervals(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Percentile bootstrap 95 % intervals of the means of values[..., n] -> [..., 2]."""
    tail = 50 * (1 - CONFIDENCE)
    means = bootstrap_means(values, resamples, seed)
    return np.moveaxis(np.percentile(means, (tail, 100 - tail), axis=-1), 0, -1)


def bca_intervals(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """BCa bootstrap 95 % intervals of the means of values[..., n] -> [..., 2]; a row without spread has an empty one."""
    from scipy.special import ndtr, ndtri

    means, middle = bootstrap_means(values, resamples, seed), values.mean(axis=-1)
    # Ties count half, and the share stays off 0 and 1, where the correction has no value.
    below = (means < middle[..., None]).mean(axis=-1) + (means == middle[..., None]).mean(axis=-1) / 2
    bias = ndtri(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    deviations = values - middle[..., None]
    squares = (deviations**2).sum(axis=-1)
    # For a mean the jackknife's acceleration is the skewness of the values, divided by 6 sqrt(n).
    acceleration = (deviations**3).sum(axis=-1) / (6 * np.where(squares > 0, squares, 1.0) ** 1.5)
    ends = []
    for quantile in (-Z, Z):
        shifted = bias + quantile
        levels = ndtr(bias + shifted / (1 - acceleration * shifted))
        ends.append(_quantile_of_each(np.sort(means, axis=-1), levels))
    return np.stack(ends, axis=-1)


def _quantile_of_each(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The quantile at a level of its own of each row of ordered[..., m], linear between its values -> [...]."""
    at = levels * (ordered.shape[-1] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, ordered.shape[-1] - 1)
    first = np.take_along_axis(ordered, low[..., None], axis=-1)[..., 0]
    second = np.take_along_axis(ordered, high[..., None], axis=-1)[..., 0]
    return first + (at - low) * (second - first)


def mean_interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """Percentile bootstrap 95 % interval of the mean; None with fewer than two values."""
    if len(values) < 2:
        return None
    low, high = percentile_intervals(values, resamples, seed)
    return float(low), float(high)


def bca_interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """BCa bootstrap 95 % interval of the mean; None with fewer than two values."""
    if len(values) < 2:
        return None
    low, high = bca_intervals(values, resamples, seed)
    return float(low), float(high)


def bootstrap_p(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Two-sided p of a mean of 0: how often a resample's mean strays as far from the sample's as that is from 0.

    Never below 1 / (resamples + 1) (Davison and Hinkley 1997, 4.4).
    """
    middle = values.mean()
    strayed = np.abs(bootstrap_means(values - middle, resamples, seed)) >= abs(middle)
    return float((strayed.sum() + 1) / (resamples + 1))
