"""Tests of difference, their correction, and what they can detect: against known cases, and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sdbench.analysis import bootstrap, coverage, multiplicity, pairs, power, statistics


def scores(values) -> pd.Series:
    return pd.Series(np.asarray(values, dtype=float), index=[f"p{i}" for i in range(len(values))])


@pytest.mark.parametrize("intervals", [bootstrap.percentile_intervals, bootstrap.bca_intervals])
def test_intervals_over_prompts_that_carry_their_repeats_cover_the_truth(intervals):
    made = coverage.synthetic_log_ratios(simulations=1000, prompts=80, repeats=3)
    assert 0.93 <= coverage.coverage(made, lambda means: intervals(means, resamples=1000)) <= 0.97


def test_the_coverage_check_rejects_repeats_taken_for_prompts():
    """The negative control: 3 repeats of 80 prompts are not 240 prompts."""
    made = coverage.synthetic_log_ratios(simulations=300, prompts=80, repeats=3)

    def wrong(_):
        return bootstrap.percentile_intervals(made.reshape(len(made), -1), resamples=1000)

    assert coverage.coverage(made, wrong) < 0.85


def test_many_samples_at_once_are_the_samples_one_by_one():
    values = np.random.default_rng(3).gamma(2.0, size=(5, 40))
    for one, many in (
        (bootstrap.mean_interval, bootstrap.percentile_intervals),
        (bootstrap.bca_interval, bootstrap.bca_intervals),
    ):
        assert many(values) == pytest.approx(np.array([one(row) for row in values]))


def test_bca_is_scipys():
    from scipy.stats import bootstrap as reference

    values = np.random.default_rng(4).gamma(0.7, size=50)
    found = reference((values,), np.mean, n_resamples=50_000, method="BCa", rng=np.random.default_rng(0))
    ours = bootstrap.bca_interval(values, resamples=50_000)
    assert ours == pytest.approx(tuple(found.confidence_interval), abs=0.02 * values.std())
    # Skewed to the right: both ends lie above those of the percentile interval.
    assert np.all(np.array(ours) > np.array(bootstrap.mean_interval(values, resamples=50_000)))
    assert bootstrap.bca_interval(np.full(9, 0.5)) == (0.5, 0.5)
    assert bootstrap.bca_interval(np.array([1.0])) is None


def test_the_bootstraps_p_is_uniform_without_a_difference_and_small_with_one():
    generator = np.random.default_rng(5)
    null = [bootstrap.bootstrap_p(generator.normal(size=50), resamples=500, seed=trial) for trial in range(400)]
    assert 0.03 <= np.mean(np.array(null) < 0.05) <= 0.085
    assert bootstrap.bootstrap_p(generator.normal(1.0, 0.5, size=50)) == 1 / 10_001
    assert bootstrap.bootstrap_p(np.zeros(10)) == 1.0


def test_two_prompts_do_not_make_a_small_p():
    assert statistics.ratio_estimate(np.array([0.5, 0.7])).p > 0.1
    assert statistics.ratio_estimate(np.zeros(5)).p == 1.0
    assert statistics.ratio_estimate(np.random.default_rng(8).normal(0.5, 0.1, 50)).p < 1e-6


def test_mcnemar_is_a_fair_coin_over_the_disagreements():
    assert pairs.mcnemar(0, 0) == 1.0
    assert pairs.mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert pairs.mcnemar(1, 6) == pytest.approx(2 * (1 + 7) / 2**7)
    found = pairs.paired_scores(scores([1, 1, 1, 0, 0]), scores([0, 0, 1, 0, 1]))
    assert (found.test, found.p, found.difference) == ("mcnemar", pytest.approx(pairs.mcnemar(1, 2)), 0.2)
    graded = pairs.paired_scores(scores([0.5, 0.25, 1]), scores([0.5, 0.5, 1]))
    assert graded.test == "bootstrap"


def test_agreement_on_few_prompts_shows_little():
    """Where two arms agree on all prompts a bootstrap's interval is empty; this one narrows with their number."""
    agree = pairs.paired_scores(scores([0.5] * 10), scores([0.5] * 10))
    assert agree.ci95 is not None
    assert agree.ci95[0] < -0.1, "ten answers that agree show little"
    assert type(agree.ci95[0]) is float  # what is compared with it must be written as JSON
    few, many = (pairs.paired_scores(scores([1] * n), scores([1] * n)) for n in (10, 400))
    assert few.ci95[0] < -0.1
    assert -0.01 < many.ci95[0] < 0 < many.ci95[1] < 0.01
    assert not statistics.non_inferiority(scores([1] * 10), scores([1] * 10), margin=0.03).non_inferior


def test_the_interval_of_a_quality_difference_covers_the_truth():
    generator = np.random.default_rng(6)
    lost, won, n = 0.06, 0.03, 120
    kinds = generator.choice([-1, 0, 1], size=(1000, n), p=[lost, 1 - lost - won, won])
    ends = np.array([pairs.disagreement_interval((k < 0).sum(), (k > 0).sum(), n) for k in kinds])
    assert 0.93 <= np.mean((ends[:, 0] <= won - lost) & (won - lost <= ends[:, 1])) <= 0.97


def test_holm_steps_down():
    """Holm's own procedure on four p values: the smallest times 4, the next times 3, ..., never falling, at most 1."""
    found = multiplicity.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None, "f": 0.9})
    expected = {"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.025, "e": None, "f": 0.9}
    assert {name: p if p is None else pytest.approx(p) for name, p in found.items()} == expected
    assert multiplicity.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_an_effect_of_the_detectable_size_is_found_four_times_in_five():
    generator = np.random.default_rng(7)
    prompts, spread = 60, 0.2
    effect = power.minimum_detectable_effect(generator.normal(0, spread, 100_000)) * math.sqrt(100_000 / prompts)
    trials = generator.normal(effect, spread, size=(1000, prompts))
    low = bootstrap.percentile_intervals(trials, resamples=500)[:, 0]
    assert 0.76 <= np.mean(low > 0) <= 0.86
    assert power.detectable_speedup(np.zeros(50)) is None
    assert power.minimum_detectable_effect(np.array([1.0])) is None


def test_scores_that_all_agree_still_have_a_detectable_difference():
    assert power.detectable_difference(np.zeros(100)) == pytest.approx(2.8 / 100, rel=0.03)
    assert power.detectable_difference(np.zeros(0)) is None
