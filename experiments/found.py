"""What a measure finds in a paper's runs: an estimate with its interval, the number of units, and what it could have detected.

The unit is the prompt (the block at larger batches): every value that goes into an estimate is one unit's, paired within one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.cells import NotRun
from sdbench.analysis.bootstrap import RESAMPLES, SEED, Interval, mean_interval

Z_LEVEL, Z_POWER = 1.959963984540054, 0.8416212335729143  # two-sided 5 %; power 80 %


@dataclass(frozen=True)
class Found:
    """value; ci95 (None with fewer than two units); n: units; ratio: whether value is a ratio (1 is no effect) or a difference
    (0 is none); note: what was compared; timed: whether it comes from a clock."""

    value: float
    ci95: Interval | None
    n: int
    ratio: bool = True
    note: str = ""
    timed: bool = False

    @property
    def detectable(self) -> float | None:
        """The smallest true effect that such a sample finds with 80 % power at the two-sided 5 % level: from the half-width of the
        interval. Of a ratio, the share by which it must differ (0.05: 5 %); of a difference, in its own unit."""
        if self.ci95 is None or self.ci95[0] == self.ci95[1]:
            return None  # all units alike: the sample says nothing about its spread
        low, high = (math.log(end) if self.ratio else end for end in self.ci95)
        effect = (Z_LEVEL + Z_POWER) / Z_LEVEL * (high - low) / 2
        return math.exp(effect) - 1 if self.ratio else effect


def of_logs(values: pd.Series, note: str = "") -> Found:
    """The geometric mean of ratios of speeds, from the logarithm of each unit's."""
    found = of_values(values, note)
    ends = None if found.ci95 is None else (math.exp(found.ci95[0]), math.exp(found.ci95[1]))
    return Found(math.exp(found.value), ends, found.n, True, note, timed=True)


def of_values(values: pd.Series, note: str = "") -> Found:
    """The mean of each unit's value."""
    array = values.dropna().to_numpy(dtype=float)
    if not len(array):
        return Found(float("nan"), None, 0, False, note)
    return Found(float(array.mean()), mean_interval(array), len(array), False, note)


def of_statistic(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], note: str = "") -> Found:
    """Any statistic of a table with a row per unit: percentile bootstrap over rows."""
    if len(table) < 2:
        return Found(statistic(table) if len(table) else float("nan"), None, len(table), False, note)
    generator = np.random.default_rng(SEED)
    draws = [statistic(table.iloc[generator.integers(len(table), size=len(table))]) for _ in range(RESAMPLES // 10)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return Found(statistic(table), (float(low), float(high)), len(table), False, note)


def best(logs: pd.DataFrame, arms: list[str]) -> tuple[pd.Series, str]:
    """log speed of the fastest of some arms, chosen on one half of the units and read on the other, both ways; and its names.

    Chosen and read on the same units, the winner of a large grid looks faster than it is.

    Raises:
        NotRun: none of the arms has a speed.
    """
    arms = [arm for arm in arms if arm in logs and logs[arm].notna().any()]
    if not arms:
        raise NotRun("an arm with a speed")
    halves = [logs.index[start::2] for start in (0, 1)]
    parts, names = [], []
    for ours, others in (halves, halves[::-1]):
        name = str((logs.loc[others, arms] if len(others) else logs[arms]).mean().idxmax())
        parts.append(logs.loc[ours, name])
        names.append(name)
    return pd.concat(parts).reindex(logs.index), " / ".join(dict.fromkeys(names))
