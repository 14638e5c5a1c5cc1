"""Is there a difference, and how large may it be? Tests of paired scores, of two separate groups, and Holm's correction.

Where every prompt is right or wrong, only the prompts on which two arms disagree carry information: b that only the first has
right, c that only the second has. McNemar's test (1947) asks whether b of b + c is a fair coin; here it is exact. The
interval of the difference is Bonett and Price's (2012): a Wald interval with one pair added to each kind of disagreement.
It is not empty where two arms agree on every prompt, as a bootstrap's is. Other scores get the percentile bootstrap, and
Bonett and Price's interval where all differences are equal.

Two groups of different prompts give wider intervals, because prompts differ among themselves. Scores that are right or
wrong get Agresti and Caffo's interval (2000) and Fisher's exact test; other values a bootstrap that resamples each group on
its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap, fisher_exact, ttest_1samp

from sdbench.analysis.stats.intervals import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Interval,
    Z,
    bootstrap_means,
    percentile_interval,
)

MARGIN = 0.03
"""Default non-inferiority margin: 3 points of score."""
MCNEMAR, BOOTSTRAP, FISHER = "mcnemar", "bootstrap", "fisher"


@dataclass(frozen=True)
class PairedScores:
    """The mean paired difference (second - first) and its test.

    difference: mean over prompts, in the score's unit; ci95: None with fewer than two prompts; p: two-sided, of no
    difference; test: `mcnemar` or `bootstrap`; values[n]: the differences.
    """

    difference: float
    ci95: Interval | None
    p: float | None
    test: str
    values: np.ndarray

    @property
    def prompts(self) -> int:
        """The number of prompts that have a score of both."""
        return len(self.values)


@dataclass(frozen=True)
class NonInferiority:
    """A non-inferiority test of an arm's scores against the baseline's.

    non_inferior: the lower end of the interval lies above -margin (two-sided 95 %, so the one-sided level is 97.5 %);
    pairs: the test of any difference.
    """

    difference: float
    ci95: Interval | None
    margin: float
    prompts: int
    non_inferior: bool
    pairs: PairedScores


@dataclass(frozen=True)
class Difference:
    """The difference of two means (second - first), its 95 % interval, and the two-sided p of no difference, by `test`.

    Interval and p are None where a group has fewer than two values.
    """

    value: float
    ci95: Interval | None
    p: float | None
    test: str


def paired_scores(scores: pd.Series, baseline_scores: pd.Series) -> PairedScores:
    """Compare two arms' mean scores per prompt (indexed by prompt_id), over the prompts that both have."""
    paired = pd.concat([scores, baseline_scores], axis=1, keys=["arm", "base"]).dropna()
    ours, theirs = paired["arm"].to_numpy(dtype=float), paired["base"].to_numpy(dtype=float)
    values = ours - theirs
    if not len(values):
        return PairedScores(float("nan"), None, None, BOOTSTRAP, values)
    if is_binary(ours) and is_binary(theirs):
        lost, won = int((values < 0).sum()), int((values > 0).sum())
        interval = disagreement_interval(lost, won, len(values))
        return PairedScores(float(values.mean()), interval, mcnemar(lost, won), MCNEMAR, values)
    p = bootstrap_p(values) if len(values) > 1 else None
    interval = percentile_interval(values)
    if interval is not None and not np.ptp(values):
        alike = disagreement_interval(0, 0, len(values))
        assert alike is not None
        interval = float(values[0]) + alike[0], float(values[0]) + alike[1]
    return PairedScores(float(values.mean()), interval, p, BOOTSTRAP, values)


def non_inferiority(scores: pd.Series, baseline_scores: pd.Series, margin: float = MARGIN) -> NonInferiority:
    """Test whether the arm's score is at most `margin` below the baseline's, paired by prompt.

    Args:
        scores, baseline_scores: mean score per prompt, by prompt_id (`metrics.quality.prompt_scores`).
        margin: the loss that is still acceptable, in the score's unit.
    """
    pairs = paired_scores(scores, baseline_scores)
    shown = pairs.ci95 is not None and pairs.ci95[0] > -margin
    return NonInferiority(pairs.difference, pairs.ci95, margin, pairs.prompts, shown, pairs)


def is_binary(values: np.ndarray) -> bool:
    """Tell whether every score is right (1) or wrong (0)."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def mcnemar(lost: int, won: int) -> float:
    """Compute the exact two-sided p of McNemar's test; 1 without a disagreement.

    lost: prompts that only the first arm has right; won: prompts that only the second has.
    """
    return float(binomtest(won, lost + won, 0.5).pvalue) if lost + won else 1.0


def disagreement_interval(lost: int, won: int, n: int) -> Interval | None:
    """Compute Bonett and Price's 95 % interval of (won - lost) / n; None with fewer than two pairs."""
    if n < 2:
        return None
    p_won, p_lost = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    middle = p_won - p_lost
    half = Z * math.sqrt((p_won + p_lost - middle**2) / (n + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def bootstrap_p(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Compute the two-sided p of a mean of 0 by the bootstrap (Davison and Hinkley 1997, 4.4).

    It is the share of resamples whose mean is as far from the sample's mean as that is from 0; at least 1 / (resamples + 1).
    """
    middle = values.mean()
    distant = np.abs(bootstrap_means(values - middle, resamples, seed)) >= abs(middle)
    return float((distant.sum() + 1) / (resamples + 1))


def paired_t_test(values: np.ndarray) -> float:
    """Compute the two-sided p of a mean of 0 by Student's paired test. Its level holds for few units; a bootstrap's does
    not."""
    rounding = 1e-12 * max(1.0, float(np.abs(values).max()))
    if np.ptp(values) <= rounding:  # no spread: the test has no variance to work with
        return float(abs(values[0]) <= rounding)
    return float(ttest_1samp(values, 0.0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def two_sample_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare the means of two groups by the bootstrap."""
    value = float(second.mean() - first.mean()) if len(first) and len(second) else float("nan")
    if min(len(first), len(second)) < 2:
        return Difference(value, None, None, BOOTSTRAP)
    drawn = bootstrap(
        (first, second), _difference_of_means, n_resamples=RESAMPLES, vectorized=True, method="percentile",
        rng=np.random.default_rng(SEED), confidence_level=CONFIDENCE,
    )  # fmt: skip
    low, high = drawn.confidence_interval
    p = (int((np.abs(drawn.bootstrap_distribution - value) >= abs(value)).sum()) + 1) / (RESAMPLES + 1)
    return Difference(value, (float(low), float(high)), p, BOOTSTRAP)


def two_sample_scores(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare the mean scores of two groups of prompts."""
    few = min(len(first), len(second)) < 2
    if few or not (is_binary(first) and is_binary(second)):
        return two_sample_difference(first, second)
    right = [(int(group.sum()), len(group)) for group in (first, second)]
    shares = [(hits + 1) / (n + 2) for hits, n in right]
    half = Z * math.sqrt(sum(share * (1 - share) / (n + 2) for share, (_, n) in zip(shares, right, strict=True)))
    middle = shares[1] - shares[0]
    p = float(fisher_exact([[hits, n - hits] for hits, n in right]).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    return Difference(float(second.mean() - first.mean()), (middle - half, middle + half), p, FISHER)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Adjust the p values of a family of tests by Holm's method (1979).

    Below 0.05 the family's chance of any false finding stays below 0.05. A test without a p (None) is not in the family.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[name] = highest
    return adjusted


def _difference_of_means(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    return second.mean(axis=axis) - first.mean(axis=axis)
