"""Paired scores of quality: is there a difference at all (McNemar, or the paired bootstrap), and how large may it be?

Where every prompt is right or wrong, only the prompts on which two arms disagree say anything: b that only the first has
right, c that only the second has. McNemar's test (1947) asks whether b of b + c is a fair coin, here exactly. The interval
of the difference is Bonett and Price's (2012), a Wald interval with one pair added to each kind of disagreement: unlike a
bootstrap it is not empty where the two arms agree on every prompt. Other scores get the percentile bootstrap, and that interval
where all differences are the same, of which a bootstrap learns nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdbench.analysis.bootstrap import Interval, Z, bootstrap_p, mean_interval

MCNEMAR, BOOTSTRAP = "mcnemar", "bootstrap"


@dataclass(frozen=True)
class PairedScores:
    """What pairs of scores say of the mean difference (second - first).

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
        """Prompts that both have a score of."""
        return len(self.values)


def paired_scores(scores: pd.Series, baseline_scores: pd.Series) -> PairedScores:
    """Compare two arms' mean scores per prompt (by prompt_id), over the prompts that both have."""
    paired = pd.concat([scores, baseline_scores], axis=1, keys=["arm", "base"]).dropna()
    ours, theirs = paired["arm"].to_numpy(dtype=float), paired["base"].to_numpy(dtype=float)
    values = ours - theirs
    if not len(values):
        return PairedScores(float("nan"), None, None, BOOTSTRAP, values)
    if binary(ours) and binary(theirs):
        lost, won = int((values < 0).sum()), int((values > 0).sum())
        interval = disagreement_interval(lost, won, len(values))
        return PairedScores(float(values.mean()), interval, mcnemar(lost, won), MCNEMAR, values)
    p = bootstrap_p(values) if len(values) > 1 else None
    interval = mean_interval(values)
    if interval is not None and not np.ptp(values):
        alike = disagreement_interval(0, 0, len(values))
        assert alike is not None
        interval = float(values[0]) + alike[0], float(values[0]) + alike[1]
    return PairedScores(float(values.mean()), interval, p, BOOTSTRAP, values)


def binary(values: np.ndarray) -> bool:
    """Whether every score is right (1) or wrong (0)."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p of McNemar's test: `lost` prompts only the one has right, `won` only the other; 1 where none."""
    from scipy.stats import binomtest

    return float(binomtest(won, lost + won, 0.5).pvalue) if lost + won else 1.0


def disagreement_interval(lost: int, won: int, n: int) -> Interval | None:
    """Bonett and Price's 95 % interval of (won - lost) / n; None with fewer than two pairs."""
    if n < 2:
        return None
    p_won, p_lost = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    middle = p_won - p_lost
    half = Z * math.sqrt((p_won + p_lost - middle**2) / (n + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)
