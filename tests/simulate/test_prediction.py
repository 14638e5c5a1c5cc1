"""The throughput model predicts simulated runs."""

from __future__ import annotations

import math

import pytest

from sdbench.runs.tables import frames
from sdbench.simulate.prediction import host_seconds_per_step, predict
from tests.runs.made import AR, HOST_SECONDS, PSD_ASSISTED, PYRAMID, SD, SD_QUALIFIER, Arm, rows

CUT = Arm("pyramid_cut", (("qualifier", 5, 0.9), ("draft", 4, 0.9)), cut_buffer=True)
TALL = Arm("tall", (("qualifier", 12, 0.95), ("draft", 6, 0.9), ("draft[1]", 3, 0.8)))
ARMS = [AR, SD, SD_QUALIFIER, PYRAMID, PSD_ASSISTED, CUT]


@pytest.fixture(scope="module")
def tables():
    return frames(rows(ARMS, prompts=40))


def measured(tables, arm):
    own = tables["sequences"][tables["sequences"]["arm"] == arm]
    return (own["tokens"].map(len) - 1).sum() / own["decode_seconds"].sum()


@pytest.mark.parametrize("arm", [arm.name for arm in ARMS])
def test_the_mended_model_predicts_a_simulated_run(tables, arm):
    lengths = {"pyramid_cut": {"target": 5}}.get(arm)
    host = host_seconds_per_step(tables, "ar")
    assert host == pytest.approx(HOST_SECONDS)
    assert predict(tables, arm, lengths, host) == pytest.approx(measured(tables, arm), rel=0.03)


def test_a_cut_buffer_needs_whole_inner_rounds(tables):
    host = host_seconds_per_step(tables, "ar")
    # Without the configured length the tokens that were cut off look as if they had cost nothing.
    assert predict(tables, "pyramid_cut", None, host) > 1.05 * measured(tables, "pyramid_cut")


def test_a_cost_that_the_model_does_not_know_shows_as_a_gap(tables):
    slow = tables["sequences"].copy()
    mask = slow["arm"] == "sd"
    slow.loc[mask, "decode_seconds"] *= 1.5
    slow.loc[mask, "block_decode_seconds"] *= 1.5
    changed = {**tables, "sequences": slow}
    host = host_seconds_per_step(changed, "ar")
    assert predict(changed, "sd", host_seconds=host) > 1.4 * measured(changed, "sd")


def test_a_pyramid_of_three_stages(monkeypatch):
    from tests.runs import made

    one = made.forward_seconds
    monkeypatch.setattr(made, "forward_seconds", lambda role, n: 0.4e-3 if role == "draft[1]" else one(role, n))
    tall = frames(rows([AR, TALL], prompts=25))
    assert set(tall["rounds"]["edge"]) == {"target", "qualifier>target", "draft>qualifier", "draft[1]>draft"}
    host = host_seconds_per_step(tall, "ar")
    lengths = {"target": 12, "qualifier": 6}
    assert predict(tall, "tall", lengths, host) == pytest.approx(measured(tall, "tall"), rel=0.05)


def test_an_arm_without_steps_has_no_prediction(tables):
    assert math.isnan(predict(tables, "nothing"))
