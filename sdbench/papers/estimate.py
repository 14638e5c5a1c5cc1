"""Estimate an effect from the kept runs of a paper, with its interval and the smallest effect that could have been detected.

The unit is the prompt, or the block at larger batches. Each value that goes into an estimate belongs to one unit and is paired
within one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sdbench.analysis.results import Results
from sdbench.analysis.stats.intervals import RESAMPLES, SEED, Interval, percentile_interval
from sdbench.analysis.stats.power import detectable_speedup, minimum_detectable_effect
from sdbench.papers.paper_results import NotRun


@dataclass(frozen=True)
class Estimate:
    """The answer of a measure.

    value: a ratio (1 is no effect) or a difference (0 is no effect), as `ratio` says. ci95: None with fewer than two units.
    n: units. note: what was compared. timed: whether the value comes from a clock. detectable: the smallest true effect that
    such a sample finds with 80 % power at the two-sided 5 % level, as a share for a ratio; None where it is not known.
    predicted: the same quantity by the formula of the paper, from measured times and acceptance.
    """

    value: float
    ci95: Interval | None
    n: int
    ratio: bool = True
    note: str = ""
    timed: bool = False
    detectable: float | None = None
    predicted: float | None = None


def of_logs(values: pd.Series, note: str = "", predicted: pd.Series | None = None) -> Estimate:
    """Return the geometric mean of ratios of speeds.

    Args:
        values: the logarithm of each unit's ratio.
        note: what was compared.
        predicted: the logarithm of each unit's predicted ratio.
    """
    mean = of_values(values)
    ends = None if mean.ci95 is None else (math.exp(mean.ci95[0]), math.exp(mean.ci95[1]))
    detectable = detectable_speedup(values.dropna().to_numpy(dtype=float)) if mean.n else None
    said = None if predicted is None or predicted.isna().any() else math.exp(predicted.mean())
    return Estimate(math.exp(mean.value), ends, mean.n, True, note, True, detectable, said)


def of_values(values: pd.Series, note: str = "") -> Estimate:
    """Return the mean of each unit's value."""
    array = values.dropna().to_numpy(dtype=float)
    if not len(array):
        return Estimate(float("nan"), None, 0, False, note)
    # Where all units agree the sample says nothing about its spread.
    detectable = minimum_detectable_effect(array) if np.ptp(array) else None
    return Estimate(float(array.mean()), percentile_interval(array), len(array), False, note, detectable=detectable)


def of_statistic(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], note: str = "") -> Estimate:
    """Return any statistic of a table with a row per unit, with a percentile bootstrap interval over rows."""
    if len(table) < 2:
        return Estimate(statistic(table) if len(table) else float("nan"), None, len(table), False, note)
    generator = np.random.default_rng(SEED)
    draws = [statistic(table.iloc[generator.integers(len(table), size=len(table))]) for _ in range(RESAMPLES // 10)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(statistic(table), (float(low), float(high)), len(table), False, note)


@dataclass(frozen=True)
class Best:
    """The best of some arms. values: its value (such as log speed) by unit; arms: which arm each unit was read from."""

    values: pd.Series
    arms: pd.Series

    @property
    def names(self) -> str:
        return " / ".join(dict.fromkeys(self.arms))

    def predicted(self, run: Results) -> pd.Series:
        """Return the log of the predicted speed of the arm of each unit; NaN where the run has no prediction."""
        said = {name: run.summary["arms"][name]["predicted_tokens_per_second"] for name in set(self.arms)}
        return self.arms.map({name: math.log(value) if value else math.nan for name, value in said.items()})


def best_of(table: pd.DataFrame, arms: list[str]) -> Best:
    """Choose the arm with the largest mean on one half of the units and read it on the other, both ways.

    Chosen and read on the same units, the winner of a large grid looks better than it is.

    Args:
        table: a row per unit and a column per arm.
        arms: the arms to choose from.

    Raises:
        NotRun: none of the arms has a value.
    """
    arms = [arm for arm in arms if arm in table and table[arm].notna().any()]
    if not arms:
        raise NotRun("an arm with a value")
    halves = [table.index[start::2] for start in (0, 1)]
    parts, chosen = [], []
    for ours, others in (halves, halves[::-1]):
        name = str((table.loc[others, arms] if len(others) else table[arms]).mean().idxmax())
        parts.append(table.loc[ours, name])
        chosen.append(pd.Series(name, index=ours))
    return Best(pd.concat(parts).reindex(table.index), pd.concat(chosen).reindex(table.index))


def fastest_ratio(run: Results, arms: list[str], others: list[str]) -> tuple[pd.Series, pd.Series, str]:
    """Compare the fastest of some arms with the fastest of others.

    Returns:
        The log of the measured ratio by unit, the log of the predicted ratio by unit, and the arms that were compared.

    Raises:
        NotRun: no arm of a side has a speed.
    """
    ours, theirs = best_of(run.logs, arms), best_of(run.logs, others)
    predicted = ours.predicted(run) - theirs.predicted(run)
    return ours.values - theirs.values, predicted, f"{ours.names} over {theirs.names}"
