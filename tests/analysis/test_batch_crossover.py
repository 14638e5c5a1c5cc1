"""Batch size against back-up, on summaries whose crossing is known."""

import json

import pytest

from sdbench.analysis.figures.ssd import batch_of_run
from sdbench.analysis.metrics.batch_crossover import crossover
from sdbench.theory.ssd import crossover_batch

NEURAL, FAST = "sdbench.asynchronous.Neural", "sdbench.asynchronous.Lookup"
A, K, P = 0.8, 6, 0.8
E_SD = (1 - A ** (K + 1)) / (1 - A)


def arm(backup, batch=1, speed=100.0, miss=E_SD, t_backup=0.6, fan_out=12):
    seconds = {"verify": 0.01, "build": 0.006, "backup": 0.01 * t_backup}
    cache = {
        "rows": float(batch), "batch_size": batch, "hit_rate": P, "tokens_per_round_on_hit": E_SD,
        "tokens_per_round_on_miss": miss, "seconds": seconds,
    }  # fmt: skip
    config = {"draft_length": K, "proposer": {"fan_out": {"budget": fan_out}, "backup": {"_target_": backup}}}
    return {"speculation": cache, "tokens_per_second": speed, "config": config}


def summary(batch=1, neural=100.0, fast=90.0, **fast_knobs):
    fast_arm = arm(FAST, batch, fast, miss=1.0, t_backup=0.0, **fast_knobs)
    return {"arms": {"ar": {"speculation": None}, "ssd": arm(NEURAL, batch, neural), "ssd_fast_backup": fast_arm}}


def test_one_run_gives_the_published_curves_and_their_crossing():
    found = crossover([summary()])
    assert found is not None
    # asynchronous decoding's reference values: p_hit 0.8, speed-ups by batch size; a verification takes 10 ms.
    per_row = {
        kind: {row["batch"]: row["tokens_per_second"] / row["batch"] * 0.01 for row in found["predicted"][kind]}
        for kind in ("neural", "fast")
    }
    wanted = {1: 3.53, 2: 3.25, 4: 2.92, 8: 2.64, 16: 2.50}
    assert {batch: per_row["neural"][batch] for batch in wanted} == pytest.approx(wanted, abs=0.006)
    assert {batch: per_row["fast"][batch] for batch in wanted} == pytest.approx(dict.fromkeys(wanted, 3.36), abs=0.006)
    n_fast = P * E_SD + (1 - P)
    assert found["b_star_theorem_17"] == pytest.approx(crossover_batch(P, E_SD, n_fast, 0.6))
    assert found["b_star_predicted"] == pytest.approx(found["b_star_theorem_17"], abs=0.01)
    assert found["b_star_measured"] is None
    json.dumps(found)


def test_several_runs_give_measured_points_and_their_own_times():
    found = crossover([summary(4, 300, 320), summary(1, 100, 90), summary(2, 190, 180)])
    assert found is not None
    assert [point["batch_size"] for point in found["measured"]["neural"]] == [1, 2, 4]
    assert found["b_star_measured"] == 4
    slower = summary(4, 300, 320)
    slower["arms"]["ssd"]["speculation"]["seconds"]["verify"] = 0.02
    for part in ("build", "backup"):
        slower["arms"]["ssd"]["speculation"]["seconds"][part] *= 2
    both = crossover([summary(1), slower])
    assert both is not None
    of = {row["batch"]: row["tokens_per_second"] for row in both["predicted"]["neural"]}
    # The times measured at 4 rows are twice as long. Beyond 4 rows they are constant.
    assert of[4] == pytest.approx(4 * 2.92 / 0.02, rel=0.003)
    assert of[1] == pytest.approx(3.53 / 0.01, rel=0.003)
    assert of[8] == pytest.approx(8 * 2.64 / 0.02, rel=0.003)


@pytest.mark.parametrize(
    "summaries",
    [
        [{"arms": {"ssd": arm(NEURAL)}}],
        [summary(fan_out=18)],  # another cache: the two differ in more than the back-up
        [{"arms": {"ar": {"speculation": None}}}],
    ],
)
def test_nothing_to_compare(summaries):
    assert crossover(summaries) is None
    assert batch_of_run(summaries[0]) is None
