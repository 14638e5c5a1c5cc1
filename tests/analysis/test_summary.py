"""`summary.json` has the promised keys, and is JSON."""

from __future__ import annotations

import json

import pytest

from sdbench.analysis.metrics.summary import configured_lengths, summarise
from sdbench.analysis.stats.tests import holm
from sdbench.errors import InputError
from sdbench.runs.tables import frames
from tests.runs.made import AR, FSD, PYRAMID, SD, meta, rows

PROMISED = {
    "tokens_per_second",
    "speedup",
    "speedup_ci95",
    "speedup_totals",
    "tokens_per_target_call",
    "accepted_per_round",
    "acceptance_rate",
    "acceptance_by_position",
    "target_calls_per_answer",
    "quality",
    "quality_ci95",
    "model_time_fraction",
    "memory_bytes",
    "devices",
    "mode",
    "lossless",
}
ARMS = [AR, SD, FSD, PYRAMID]


@pytest.fixture(scope="module")
def made():
    return rows(ARMS, prompts=45)


@pytest.fixture(scope="module")
def summary(made):
    return summarise(frames(made), "ar", meta(ARMS))


def test_the_promised_keys_are_there(summary):
    assert summary["schema_version"] == 1
    assert summary["baseline"] == "ar"
    assert list(summary["arms"]) == ["ar", "sd", "fsd", "pyramid"]
    for arm in summary["arms"].values():
        assert arm.keys() >= PROMISED


def test_it_is_json_without_nan(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["arms"]["ar"]["acceptance_rate"] is None


def test_the_baseline_is_one(summary):
    ar = summary["arms"]["ar"]
    assert ar["speedup"] == pytest.approx(1.0)
    assert ar["tokens_per_target_call"] == 1.0
    assert ar["agreement"] == {"identical": 1.0, "common_prefix": 1.0}
    assert ar["quality_difference"] == 0.0


def test_differences_have_a_corrected_p_and_what_could_be_detected(summary):
    arms = summary["arms"]
    for test in ("speedup_p", "quality_p"):
        raw = {name: arm[test] for name, arm in arms.items() if name != "ar"}
        assert {name: arms[name][f"{test}_holm"] for name in raw} == holm(raw)
        assert arms["ar"][f"{test}_holm"] is None
    for name in ("sd", "fsd", "pyramid"):
        assert 0 < arms[name]["minimum_detectable_effect"] < 0.2
        assert arms[name]["quality_test"] == "mcnemar"
        assert 0 < arms[name]["quality_minimum_detectable_effect"] < 0.5
        low, high = arms[name]["speedup_ci95_bca"]
        assert low < arms[name]["speedup"] < high


def test_tokens_per_target_call_is_that_of_the_rounds(summary):
    sd = summary["arms"]["sd"]
    assert sd["tokens_per_target_call"] == pytest.approx(sd["edges"]["draft>target"]["emitted_per_round"])


def test_the_time_divides_into_three(summary):
    for arm in summary["arms"].values():
        parts = (arm["model_time_fraction"], arm["step_overhead_fraction"], arm["host_fraction"])
        assert sum(parts) == pytest.approx(1.0)
        assert arm["model_time_fraction"] > 0.85
        assert arm["bare_coverage"] == 1.0


def test_prediction_and_measurement_agree_and_the_oracle_is_a_bound(summary):
    for name, arm in summary["arms"].items():
        assert arm["predicted_tokens_per_second"] == pytest.approx(arm["tokens_per_second"], rel=0.02)
        if name != "ar":
            assert arm["oracle_length_tokens_per_second"] > arm["tokens_per_second"]


def test_failed_sequences_are_counted_and_unpaired(made):
    broken = {**made, "sequences": [dict(row) for row in made["sequences"]]}
    for row in broken["sequences"]:
        if row["arm"] == "sd" and row["block"] == 3:
            row.update(finish_reason="error", tokens=[], score=None, decode_seconds=0.0, block_decode_seconds=0.0)
    arms = summarise(frames(broken), "ar", meta(ARMS))["arms"]
    assert arms["sd"]["failed"] == 1
    assert arms["sd"]["prompts"] == 44
    assert arms["sd"]["speedup_units"] == 44
    assert arms["ar"]["failed"] == 0


def test_an_arm_that_failed_everywhere_has_nulls(made):
    broken = {**made, "sequences": [dict(row) for row in made["sequences"]]}
    for row in broken["sequences"]:
        if row["arm"] == "sd":
            row.update(finish_reason="error", tokens=[], score=None)
    arm = summarise(frames(broken), "ar", meta(ARMS))["arms"]["sd"]
    assert arm["failed"] == 45
    assert arm["prompts"] == 0
    assert arm["speedup"] is arm["quality"] is arm["tokens_per_second"] is arm["model_time_fraction"] is None


def test_an_unknown_baseline_is_refused(made):
    with pytest.raises(InputError, match="the baseline arr is none of the arms ar, sd, fsd, pyramid"):
        summarise(frames(made), "arr", meta(ARMS))


def test_lengths_are_read_off_the_nesting(made):
    rounds = frames(made)["rounds"]
    pyramid = rounds[rounds["arm"] == "pyramid"]
    assert configured_lengths(PYRAMID.config, pyramid) == {"target": 8, "qualifier": 3}
    assert configured_lengths({"draft_length": "oracle"}, pyramid) == {}
    assert configured_lengths({}, rounds[rounds["arm"] == "ar"]) == {}
