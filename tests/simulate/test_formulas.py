"""The throughput model: the published equations, and the mended ones against simulated runs."""

from __future__ import annotations

import math

import pytest

from sdbench.runs.tables import frames
from sdbench.simulate.formulas import (
    expected_tokens,
    host_seconds_per_step,
    predict,
    pyramid_throughput,
    rounds_until,
    speculative_throughput,
)
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


def test_the_published_equations():
    # 4 drafted tokens at 400 tok/s and a verification at 50 tok/s: 30 ms for 0.6 * 5 tokens.
    assert speculative_throughput(0.6, 4, 400, 50) == pytest.approx(3 / 0.030)
    # The pair runs at 100 tok/s; 10 of its tokens and a target call at 20 tok/s: 150 ms for 0.5 * 11 tokens.
    assert pyramid_throughput([0.6, 0.5], [4, 10], 400, [50, 20]) == pytest.approx(5.5 / 0.150)
    assert pyramid_throughput([0.6], [4], 400, [50]) == speculative_throughput(0.6, 4, 400, 50)


def test_expected_tokens_of_a_geometric_acceptance():
    assert expected_tokens(0.5, 2) == pytest.approx(1.75)
    assert expected_tokens(1.0, 4) == 5.0
    assert expected_tokens(0.0, 4) == 1.0


def test_rounds_until_by_hand():
    assert rounds_until(0, {1: 1.0}) == 0
    assert rounds_until(6, {3: 1.0}) == 2
    assert rounds_until(5, {3: 1.0}) == 2
    # Two tokens from rounds of 1 or 2, evenly: 1 round in half the cases, else 2.
    assert rounds_until(2, {1: 0.5, 2: 0.5}) == pytest.approx(1.5)


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
