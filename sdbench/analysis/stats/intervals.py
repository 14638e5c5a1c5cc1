"""95 % intervals of means and shares: the bootstrap over units (scipy), and Wilson's interval of a share.

The seed of the bootstrap is fixed, so the same rows give the same interval. A function over `values[..., n]` takes many samples
at once; they share their resamples.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap, norm

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 20_000
Z = float(norm.ppf((1 + CONFIDENCE) / 2))
"""Two-sided normal quantile of CONFIDENCE."""
FEWEST_PROMPTS = 40
"""Below this number of prompts an interval is rough, and a report says so."""
FEWEST_UNITS = 10
"""A bootstrap over fewer units covers too little to decide anything."""

_CHUNK = 2_000_000  # values that are drawn at a time

Interval = tuple[float, float]


class FewPrompts(UserWarning):
    """An interval over so few prompts covers less than it claims."""


@dataclass(frozen=True)
class Estimate:
    """A value with its uncertainty.

    ci95: percentile interval, None with fewer than two units; units: number of prompts or blocks; ci95_bca: BCa interval;
    p: two-sided, of no effect; smallest: minimum detectable effect. The last three are None where they were not computed.
    """

    value: float
    ci95: Interval | None
    units: int
    ci95_bca: Interval | None = None
    p: float | None = None
    smallest: float | None = None


@dataclass(frozen=True)
class MeanIntervals:
    """Bootstrap intervals of the mean: percentile[..., 2] and bca[..., 2] (Efron 1987: corrected for bias and skewness)."""

    percentile: np.ndarray
    bca: np.ndarray


def mean_intervals(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> MeanIntervals:
    """Compute both bootstrap 95 % intervals of the means of values[..., n] from the same resamples.

    A sample without spread has an empty interval.
    """
    drawn = _bootstrap(values, resamples, seed)
    tail = 50 * (1 - CONFIDENCE)
    percentile = np.moveaxis(np.percentile(drawn.bootstrap_distribution, (tail, 100 - tail), axis=-1), 0, -1)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        corrected = bootstrap(
            (values,), np.mean, n_resamples=0, axis=-1, vectorized=True, method="BCa", bootstrap_result=drawn,
            confidence_level=CONFIDENCE,
        ).confidence_interval  # fmt: skip
    bca = np.stack(corrected, axis=-1)
    return MeanIntervals(percentile, np.where(np.isnan(bca), values.mean(axis=-1)[..., None], bca))


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Draw the means of `resamples` resamples of values[..., n] -> [..., resamples]."""
    return _bootstrap(values, resamples, seed).bootstrap_distribution


def percentile_interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> Interval | None:
    """Compute the percentile bootstrap 95 % interval of the mean of values[n]; None with fewer than two values."""
    if len(values) < 2:
        return None
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(bootstrap_means(values, resamples, seed), (tail, 100 - tail))
    return float(low), float(high)


def wilson_interval(successes: int, n: int) -> Interval | None:
    """Compute Wilson's 95 % interval (1927) of a share, which is not empty at 0 and at 1; None with fewer than two trials."""
    if n < 2:
        return None
    found = binomtest(int(successes), n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def _bootstrap(values: np.ndarray, resamples: int, seed: int):
    """Resample values[..., n] with scipy, in chunks that bound the memory."""
    return bootstrap(
        (values,), np.mean, n_resamples=resamples, axis=-1, vectorized=True, method="percentile",
        batch=max(1, _CHUNK // max(1, values.size)), rng=np.random.default_rng(seed), confidence_level=CONFIDENCE,
    )  # fmt: skip
