"""Intervals cover the truth, and speed-ups are computed from pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sdbench.analysis.metrics import quality, speed
from sdbench.analysis.stats import intervals, tests
from tests.analysis.test_metrics import sequence, sequences

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")


def pairs(*speeds, **changes):
    """An arm's sequences, 11 tokens each, at the given tokens per second."""
    return sequences(*[sequence(block=i, tokens=11, seconds=10 / speed, **changes) for i, speed in enumerate(speeds)])


def test_the_interval_of_the_speedup_covers_the_truth():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        logs = generator.normal(np.log(1.8), 0.3, size=60)
        low, high = intervals.percentile_interval(logs, resamples=1000, seed=trial) or (0, 0)
        covered += low <= np.log(1.8) <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_wilsons_interval_covers_the_truth_and_is_not_empty_at_the_ends():
    hits = np.random.default_rng(2).binomial(80, 0.9, size=400)
    inside = [low <= 0.9 <= high for low, high in (intervals.wilson_interval(n, 80) or (0, 0) for n in hits)]
    assert 0.90 <= np.mean(inside) <= 0.99
    assert intervals.wilson_interval(50, 50)[0] == pytest.approx(0.9287, abs=1e-4)


def test_the_speedup_is_a_geometric_mean_of_pairs_not_a_ratio_of_means():
    # Twice as fast on one prompt, half as fast on another: no speed-up. The ratio of arithmetic means is 1.25,
    # and the ratio of totals differs again.
    arm, base = pairs(20, 5), pairs(10, 10, arm="ar")
    assert speed.speedup(arm, base).value == pytest.approx(1.0)
    assert speed.speedup_totals(arm, base) == pytest.approx((20 / (0.5 + 2)) / 10)


def test_pairing_cancels_what_the_prompts_share():
    slow = np.linspace(1, 30, 50)
    found = speed.speedup(pairs(*(1.5 * slow)), pairs(*slow, arm="ar"))
    assert found.ci95 == pytest.approx((1.5, 1.5))
    assert found.units == 50


def test_repeats_travel_with_their_prompt():
    first, again = pairs(10, 40), pairs(40, 10, repeat=1)
    base = pd.concat([pairs(10, 10, arm="ar"), pairs(10, 10, arm="ar", repeat=1)])
    found = speed.speedup(pd.concat([first, again]), base)
    assert found.units == 2
    # Each prompt's mean over repeats is a factor of 2, so there is no spread over prompts.
    assert found.ci95 == pytest.approx((2.0, 2.0))


def test_at_larger_batches_the_unit_is_the_block():
    def batch(arm, seconds):
        return sequences(
            *[
                sequence(arm, block=b, prompt_id=f"{b}-{i}", tokens=6, seconds=seconds)
                for b in range(3)
                for i in range(4)
            ]
        )

    found = speed.speedup(batch("sd", 1.0), batch("ar", 2.0))
    assert found.units == 3
    assert found.value == pytest.approx(2.0)
    assert speed.speedup_totals(batch("sd", 1.0), batch("ar", 2.0)) == pytest.approx(2.0)


def test_a_prompt_that_one_arm_lacks_or_that_gave_no_decoded_token_makes_no_pair():
    arm = sequences(*[sequence(block=b, tokens=n, seconds=1.0) for b, n in enumerate([11, 11, 1])])
    base = sequences(*[sequence("ar", block=b, tokens=n, seconds=2.0) for b, n in [(0, 11), (2, 11), (3, 11)]])
    found = speed.speedup(arm, base)
    assert found.units == 1
    assert found.value == pytest.approx(2.0)
    assert found.ci95 is None


@pytest.mark.filterwarnings("default::sdbench.analysis.stats.intervals.FewPrompts")
def test_few_prompts_are_warned_about():
    with pytest.warns(intervals.FewPrompts, match="2 prompts are few"):
        speed.speedup(pairs(1, 2), pairs(1, 2, arm="ar"))


def test_the_same_rows_give_the_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    assert intervals.percentile_interval(values) == intervals.percentile_interval(values)


def test_quality_of_right_and_wrong_has_wilsons_interval():
    found = quality.quality(pd.Series([1.0] * 45 + [0.0] * 5))
    assert found.value == 0.9
    assert found.ci95 == intervals.wilson_interval(45, 50)
    graded = quality.quality(pd.Series([0.5, 0.25, 1.0]))
    assert graded.ci95 == intervals.percentile_interval(np.array([0.5, 0.25, 1.0]))
    assert quality.quality(pd.Series([], dtype=float)).ci95 is None


def scores(*values):
    return pd.Series(values, index=[f"p{i}" for i in range(len(values))])


def test_non_inferiority_needs_the_whole_interval_above_the_margin():
    base = scores(*[1.0] * 280, *[0.0] * 20)
    assert tests.non_inferiority(base, base, margin=0.03).non_inferior
    worse = scores(*[0.0] * 30, *[1.0] * 250, *[0.0] * 20)
    assert not tests.non_inferiority(worse, base, margin=0.03).non_inferior
    # Two points worse on average, but not shown to be less than three: undecided is not non-inferior.
    undecided = tests.non_inferiority(scores(*[0.0] * 6, *[1.0] * 274, *[0.0] * 20), base, margin=0.03)
    assert undecided.difference == pytest.approx(-0.02)
    assert not undecided.non_inferior
    assert tests.non_inferiority(scores(*[0.0] * 6, *[1.0] * 274, *[0.0] * 20), base, margin=0.05).non_inferior


def test_non_inferiority_without_scores_is_not_shown():
    found = tests.non_inferiority(scores(), scores(1.0, 1.0))
    assert found.prompts == 0
    assert not found.non_inferior


def test_end_to_end_counts_prefill_and_the_first_token():
    def one(arm, prefill, decode, tokens):
        return {
            "arm": arm, "block": 0, "repeat": 0, "prompt_id": "p", "tokens": list(range(tokens)),
            "prefill_seconds": prefill, "decode_seconds": decode, "block_decode_seconds": decode,
        }  # fmt: skip

    ours, theirs = pd.DataFrame([one("ar", 1.0, 1.0, 10)]), pd.DataFrame([one("peer", 0.0, 4.0, 10)])
    assert speed.speedup(theirs, ours, whole=True).value == pytest.approx(0.5)  # 10 / 4 over 10 / 2
    # Not 9 / 4 over 9 / 1: the peer cannot tell prefill from decoding.
    assert speed.speedup(theirs, ours).value == pytest.approx(0.5)
    assert speed.speedup_totals(theirs, ours) == pytest.approx(0.5)
