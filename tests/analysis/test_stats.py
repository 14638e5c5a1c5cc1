"""Intervals, tests of difference, their correction and their power: against known cases and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sdbench.analysis.metrics.speed import ratio_estimate
from sdbench.analysis.stats import intervals, power, tests


def scores(values) -> pd.Series:
    return pd.Series(np.asarray(values, dtype=float), index=[f"p{i}" for i in range(len(values))])


TRUE_LOG_SPEEDUP = 0.6
BETWEEN, WITHIN = 0.15, 0.1  # standard deviations of the log ratio: between prompts, and between the repeats of one
SHAPE = 8.0  # of the gamma law of prompts: a skewness of 0.7


def log_ratios(simulations: int, prompts: int, repeats: int) -> np.ndarray:
    """Make log ratios [simulations, prompts, repeats] with expectation TRUE_LOG_SPEEDUP; prompts are skewed, as real ones are."""
    generator = np.random.default_rng(0)
    skewed = (generator.gamma(SHAPE, size=(simulations, prompts, 1)) - SHAPE) / np.sqrt(SHAPE)
    noise = generator.normal(size=(simulations, prompts, repeats))
    return TRUE_LOG_SPEEDUP + BETWEEN * skewed + WITHIN * noise


def coverage(ends: np.ndarray) -> float:
    """Compute the share of intervals [simulations, 2] that contain the truth."""
    return float(np.mean((ends[:, 0] <= TRUE_LOG_SPEEDUP) & (ends[:, 1] >= TRUE_LOG_SPEEDUP)))


def test_intervals_over_prompts_that_carry_their_repeats_cover_the_truth():
    found = intervals.mean_intervals(log_ratios(simulations=1000, prompts=80, repeats=3).mean(axis=2), resamples=1000)
    assert 0.93 <= coverage(found.percentile) <= 0.97
    assert 0.93 <= coverage(found.bca) <= 0.97


def test_repeats_that_are_taken_for_prompts_cover_too_little():
    """The negative control: 3 repeats of 80 prompts are not 240 prompts."""
    made = log_ratios(simulations=300, prompts=80, repeats=3)
    assert coverage(intervals.mean_intervals(made.reshape(len(made), -1), resamples=1000).percentile) < 0.85


def test_many_samples_at_once_are_the_samples_one_by_one():
    values = np.random.default_rng(3).gamma(2.0, size=(5, 40))
    together = intervals.mean_intervals(values)
    alone = [intervals.mean_intervals(row) for row in values]
    assert together.percentile == pytest.approx(np.array([one.percentile for one in alone]))
    assert together.bca == pytest.approx(np.array([one.bca for one in alone]))
    assert [intervals.percentile_interval(row) for row in values] == [tuple(one.percentile) for one in alone]


def test_bca_moves_towards_the_long_tail():
    values = np.random.default_rng(4).gamma(0.7, size=50)
    found = intervals.mean_intervals(values, resamples=50_000)
    # Skewed to the right: both ends lie above those of the percentile interval.
    assert np.all(found.bca > found.percentile)


def test_a_sample_without_spread_has_an_empty_interval_and_one_value_has_none():
    found = intervals.mean_intervals(np.full(9, 0.5))
    assert found.percentile.tolist() == found.bca.tolist() == [0.5, 0.5]
    assert intervals.percentile_interval(np.array([1.0])) is None
    assert intervals.wilson_interval(1, 1) is None


def test_the_bootstraps_p_is_uniform_without_a_difference_and_small_with_one():
    generator = np.random.default_rng(5)
    null = [tests.bootstrap_p(generator.normal(size=50), resamples=500, seed=trial) for trial in range(400)]
    assert 0.03 <= np.mean(np.array(null) < 0.05) <= 0.085
    assert tests.bootstrap_p(generator.normal(1.0, 0.5, size=50)) == 1 / 10_001
    assert tests.bootstrap_p(np.zeros(10)) == 1.0


def test_two_prompts_do_not_make_a_small_p():
    assert ratio_estimate(np.array([0.5, 0.7])).p > 0.1
    assert ratio_estimate(np.zeros(5)).p == 1.0
    assert ratio_estimate(np.random.default_rng(8).normal(0.5, 0.1, 50)).p < 1e-6


def test_mcnemar_is_a_fair_coin_over_the_disagreements():
    assert tests.mcnemar(0, 0) == 1.0
    assert tests.mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert tests.mcnemar(1, 6) == pytest.approx(2 * (1 + 7) / 2**7)
    found = tests.paired_scores(scores([1, 1, 1, 0, 0]), scores([0, 0, 1, 0, 1]))
    assert (found.test, found.p, found.difference) == ("mcnemar", pytest.approx(tests.mcnemar(1, 2)), 0.2)
    graded = tests.paired_scores(scores([0.5, 0.25, 1]), scores([0.5, 0.5, 1]))
    assert graded.test == "bootstrap"


def test_agreement_on_few_prompts_shows_little():
    """A bootstrap's interval is empty where two arms agree on all prompts; this one narrows with the number of prompts."""
    agree = tests.paired_scores(scores([0.5] * 10), scores([0.5] * 10))
    assert agree.ci95 is not None
    assert agree.ci95[0] < -0.1, "ten answers that agree show little"
    assert type(agree.ci95[0]) is float  # plain floats can be written as JSON
    few, many = (tests.paired_scores(scores([1] * n), scores([1] * n)) for n in (10, 400))
    assert few.ci95[0] < -0.1
    assert -0.01 < many.ci95[0] < 0 < many.ci95[1] < 0.01
    assert not tests.non_inferiority(scores([1] * 10), scores([1] * 10), margin=0.03).non_inferior


def test_the_interval_of_a_quality_difference_covers_the_truth():
    generator = np.random.default_rng(6)
    lost, won, n = 0.06, 0.03, 120
    kinds = generator.choice([-1, 0, 1], size=(1000, n), p=[lost, 1 - lost - won, won])
    ends = np.array([tests.disagreement_interval((k < 0).sum(), (k > 0).sum(), n) for k in kinds])
    assert 0.93 <= np.mean((ends[:, 0] <= won - lost) & (won - lost <= ends[:, 1])) <= 0.97


def test_holm_steps_down():
    """Holm's own procedure on four p values: the smallest times 4, the next times 3, ..., never falling, at most 1."""
    found = tests.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None, "f": 0.9})
    expected = {"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.025, "e": None, "f": 0.9}
    assert {name: p if p is None else pytest.approx(p) for name, p in found.items()} == expected
    assert tests.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_an_effect_of_the_detectable_size_is_found_four_times_in_five():
    generator = np.random.default_rng(7)
    prompts, spread = 60, 0.2
    effect = power.minimum_detectable_effect(generator.normal(0, spread, 100_000)) * math.sqrt(100_000 / prompts)
    trials = generator.normal(effect, spread, size=(1000, prompts))
    low = intervals.mean_intervals(trials, resamples=500).percentile[:, 0]
    assert 0.76 <= np.mean(low > 0) <= 0.86
    assert power.detectable_speedup(np.zeros(50)) is None
    assert power.minimum_detectable_effect(np.array([1.0])) is None


def test_scores_that_all_agree_still_have_a_detectable_difference():
    assert power.detectable_difference(np.zeros(100)) == pytest.approx(2.8 / 100, rel=0.03)
    assert power.detectable_difference(np.zeros(0)) is None
    assert power.detectable_difference(np.array([0.0, 1.0])) is None  # it would be more than a whole point


def test_two_groups_of_prompts_are_compared_without_pairs():
    generator = np.random.default_rng(9)
    first, second = generator.normal(0, 1, 80), generator.normal(1.0, 1, 60)
    found = tests.two_sample_difference(first, second)
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert found.ci95[0] < found.value < found.ci95[1]
    # The interval of independent means: 1.96 sqrt(s1^2 / n1 + s2^2 / n2) on either side.
    half = intervals.Z * math.sqrt(first.var() / 80 + second.var() / 60)
    assert found.ci95 == pytest.approx((found.value - half, found.value + half), abs=0.05)
    assert found.p < 0.01
    assert tests.two_sample_difference(first, first).p == 1.0
    assert tests.two_sample_difference(first[:1], second).ci95 is None
    assert math.isnan(tests.two_sample_difference(first[:0], second).value)


def test_two_groups_of_right_and_wrong_have_fishers_test():
    first, second = np.repeat([1.0, 0.0], [30, 10]), np.repeat([1.0, 0.0], [10, 30])
    found = tests.two_sample_scores(first, second)
    assert found.test == "fisher"
    assert found.value == -0.5
    assert found.ci95[0] < -0.5 < found.ci95[1] < 0
    assert found.p < 0.001
    assert tests.two_sample_scores(first, second / 2).test == "bootstrap"
