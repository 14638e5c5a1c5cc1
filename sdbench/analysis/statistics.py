"""Intervals. The unit is the prompt: it is paired with itself under the baseline, and its repeats travel with it.

At batch sizes above one the rows of a block share their time, so there the unit is the block. Percentile bootstrap with
BCa beside it; for shares of yes and no, Wilson's interval (1927), which is not empty at 0 and at 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdbench.analysis.bootstrap import Interval, Z, bca_interval, mean_interval
from sdbench.analysis.pairs import PairedScores, paired_scores
from sdbench.analysis.power import detectable_speedup
from sdbench.analysis.rows import decode_tokens, emitted_tokens, ratio

FEWEST_PROMPTS = 40
FEWEST_UNITS = 10
"""A bootstrap over fewer units covers too little to decide anything."""
MARGIN = 0.03
"""Default non-inferiority margin: 3 points of score."""


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval (None with fewer than two units), and the number of units.

    ci95_bca: the BCa interval; p: two-sided, of no effect; smallest: the minimum detectable effect. None where not asked for.
    """

    value: float
    ci95: Interval | None
    units: int
    ci95_bca: Interval | None = None
    p: float | None = None
    smallest: float | None = None


@dataclass(frozen=True)
class NonInferiority:
    """The mean paired difference (arm - baseline), its 95 % interval, the margin, and the verdict.

    non_inferior: the lower end of the interval lies above -margin (two-sided 95 %, so the one-sided level is 97.5 %).
    pairs: the test of any difference, beside it.
    """

    difference: float
    ci95: Interval | None
    margin: float
    prompts: int
    non_inferior: bool
    pairs: PairedScores


class FewPrompts(UserWarning):
    """An interval over so few prompts covers less than it says."""


def wilson_interval(successes: float, n: int) -> Interval | None:
    """Wilson's 95 % interval of a share; None with fewer than two trials."""
    if n < 2:
        return None
    share, square = successes / n, Z**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * np.sqrt(share * (1 - share) / n + square / (4 * n**2))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def quality(prompt_scores: pd.Series) -> Estimate:
    """Mean score over prompts: Wilson's interval where every prompt is right or wrong, else the bootstrap's."""
    values = prompt_scores.to_numpy(dtype=float)
    if not len(values):
        return Estimate(float("nan"), None, 0)
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    interval = wilson_interval(values.sum(), len(values)) if binary else mean_interval(values)
    return Estimate(float(values.mean()), interval, len(values))


def unit_column(sequences: pd.DataFrame) -> str:
    """What is resampled: `prompt_id`, or `block` where a block has several rows."""
    single = (sequences.groupby(["arm", "block", "repeat"]).size() == 1).all()
    return "prompt_id" if single else "block"


def log_ratios(sequences: pd.DataFrame, baseline: pd.DataFrame, whole: bool = False) -> pd.Series:
    """log(tokens per second of the arm / of the baseline) of each unit, mean over its repeats, by unit.

    Pairs are made by (unit, repeat); one that either arm lacks, or that gave no token, is left out. whole: end to end on both
    sides, all tokens over prefill and decoding, in place of what came after the first token; so it is too where one of them cannot
    tell the two apart.
    """
    unit, whole = unit_column(pd.concat([sequences, baseline])), whole or _whole_only(sequences, baseline)
    sides = [_speeds(side, unit, whole) for side in (sequences, baseline)]
    paired = pd.concat(sides, axis=1, keys=["arm", "base"]).dropna()
    return (paired["arm"] / paired["base"]).map(np.log).groupby(level=0).mean()


def _whole_only(sequences: pd.DataFrame, baseline: pd.DataFrame) -> bool:
    """Whether one of two arms cannot tell prefill from decoding, as a peer, whose prefill is 0 and whose decoding is the whole."""
    return (sequences["prefill_seconds"] > 0).any() != (baseline["prefill_seconds"] > 0).any()


def log_speeds(sequences: pd.DataFrame) -> pd.Series:
    """log(tokens per second) of each unit, mean over its repeats, by unit."""
    return _speeds(sequences, unit_column(sequences)).map(np.log).groupby(level=0).mean()


def speedup(sequences: pd.DataFrame, baseline: pd.DataFrame, whole: bool = False) -> Estimate:
    """Geometric mean over units of the paired speed ratio, with its bootstrap 95 % interval. Warns below 40 prompts.

    whole: end to end, as in `log_ratios`.
    """
    values = log_ratios(sequences, baseline, whole).to_numpy()
    units = min(sequences["prompt_id"].nunique(), len(values))
    if units < FEWEST_PROMPTS:
        what = "prompts" if units == sequences["prompt_id"].nunique() else "blocks"
        warnings.warn(f"{units} {what} are few: intervals are rough below {FEWEST_PROMPTS}", FewPrompts, stacklevel=2)
    if not len(values):
        return Estimate(float("nan"), None, 0)
    return ratio_estimate(values)


def ratio_estimate(log_ratios: np.ndarray) -> Estimate:
    """The geometric mean of ratios whose logarithms are given, one per unit, with all that is said of it."""
    several = len(log_ratios) > 1
    return Estimate(
        float(np.exp(log_ratios.mean())),
        _exp(mean_interval(log_ratios)),
        len(log_ratios),
        _exp(bca_interval(log_ratios)),
        _t_test(log_ratios) if several else None,
        detectable_speedup(log_ratios),
    )


def speedup_totals(sequences: pd.DataFrame, baseline: pd.DataFrame) -> float:
    """Ratio of totals: all tokens / all seconds of the arm over those of the baseline, for the units that both have."""
    unit, whole = unit_column(pd.concat([sequences, baseline])), _whole_only(sequences, baseline)
    ours, theirs = _totals(sequences, unit, whole), _totals(baseline, unit, whole)
    both = ours.index.intersection(theirs.index)
    ours, theirs = ours.loc[both].sum(), theirs.loc[both].sum()
    return ratio(ratio(ours["tokens"], ours["seconds"]), ratio(theirs["tokens"], theirs["seconds"]))


def non_inferiority(scores: pd.Series, baseline_scores: pd.Series, margin: float = MARGIN) -> NonInferiority:
    """Is the arm's score at most `margin` below the baseline's? Paired by prompt.

    Args:
        scores, baseline_scores: mean score per prompt, by prompt_id (`metrics.prompt_scores`).
        margin: how much worse is still acceptable, in the score's unit.
    """
    pairs = paired_scores(scores, baseline_scores)
    shown = pairs.ci95 is not None and pairs.ci95[0] > -margin
    return NonInferiority(pairs.difference, pairs.ci95, margin, pairs.prompts, shown, pairs)


def _t_test(values: np.ndarray) -> float:
    """Two-sided p of a mean of 0: Student's paired test, whose level holds for few units, where a bootstrap's does not."""
    from scipy.stats import ttest_1samp

    if not np.ptp(values):
        return float(values[0] == 0)
    return float(ttest_1samp(values, 0.0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def _exp(interval: Interval | None) -> Interval | None:
    return None if interval is None else (float(np.exp(interval[0])), float(np.exp(interval[1])))


def _totals(sequences: pd.DataFrame, unit: str, whole: bool = False) -> pd.DataFrame:
    """Decode tokens and seconds by (unit, repeat); whole: all tokens, and prefill too."""
    groups = sequences.assign(n=(emitted_tokens if whole else decode_tokens)(sequences)).groupby([unit, "repeat"])
    # The rows of a block share its seconds: the first row's stand for all.
    seconds = groups["block_decode_seconds"].first() + (groups["prefill_seconds"].sum() if whole else 0.0)
    return pd.DataFrame({"tokens": groups["n"].sum(), "seconds": seconds})


def _speeds(sequences: pd.DataFrame, unit: str, whole: bool = False) -> pd.Series:
    """Tokens per second by (unit, repeat), where there were any."""
    totals = _totals(sequences, unit, whole)
    totals = totals[(totals["tokens"] > 0) & (totals["seconds"] > 0)]
    return totals["tokens"] / totals["seconds"]
