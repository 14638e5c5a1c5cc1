"""Calibration by hand, on drawn data with a known answer, and in a decoding."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.analysis.figures import core, style
from sdbench.analysis.metrics.acceptance import edges
from sdbench.analysis.metrics.calibration import calibration, judged
from sdbench.analysis.report.calibration_table import calibration_table
from sdbench.decoding import Request, Speculative
from sdbench.drafting import ModelDrafter
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import StopAtTokens
from tests.conftest import random_model


def rounds(*rows):
    """rows: probabilities and accepted tokens of a round."""
    return pd.DataFrame(
        [
            {
                "edge": "draft>target",
                "draft_probabilities": given,
                "proposed": len(given),
                "accepted": kept,
                "emitted": kept + 1,
            }
            for given, kept in rows
        ]
    )


def test_by_hand():
    table = rounds([[0.9, 0.8, 0.3], 1], [[0.95], 1], [[0.4, 0.7], 0])
    given, kept = judged(table)
    assert given.tolist() == [0.9, 0.8, 0.95, 0.4]  # 0.3 and 0.7 stand behind a rejected token
    assert kept.tolist() == [True, False, True, False]
    found = calibration(table)
    assert found["tokens"] == 4
    assert found["brier"] == pytest.approx((0.01 + 0.64 + 0.0025 + 0.16) / 4)
    assert found["auroc"] == 1.0
    assert [(one["low"], one["tokens"], one["accepted"]) for one in found["bins"]] == [
        (0.4, 1, 0.0), (0.8, 1, 0.0), (0.9, 2, 1.0),
    ]  # fmt: skip
    assert found["ece"] == pytest.approx((0.4 + 0.8 + 2 * 0.075) / 4)
    assert edges(table)["draft>target"]["calibration"] == found


def test_without_probabilities_there_is_none():
    assert calibration(rounds([[0.5], 1]).drop(columns="draft_probabilities")) is None
    assert calibration(rounds([[0.5], 1]).assign(draft_probabilities=math.nan)) is None
    assert calibration(rounds([[0.5], 1]).assign(nodes=1)) is None  # a token tree


def test_one_kind_alone_has_no_auroc():
    assert math.isnan(calibration(rounds([[0.5], 1]))["auroc"])


@pytest.mark.parametrize(("power", "low", "high"), [(1.0, 0.0, 0.04), (3.0, 0.2, 0.4)])
def test_a_calibrated_draft_has_a_small_error_and_an_overconfident_one_a_large_one(power, low, high):
    draw = np.random.default_rng(0)
    odds = draw.uniform(size=4000)
    kept = draw.uniform(size=4000) < odds**power
    table = rounds(*[([p], int(k)) for p, k in zip(odds, kept, strict=True)])
    assert low <= calibration(table)["ece"] < high
    pairs = np.sign(odds[kept][:, None] - odds[~kept][None]).mean() / 2 + 0.5
    assert calibration(table)["auroc"] == pytest.approx(pairs)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@torch.inference_mode()
def test_the_probabilities_of_a_decoding_are_the_draft_models(temperature):
    target, draft = random_model("llama"), random_model("llama")  # alike, so that drafted tokens are kept
    decoder = Speculative(Transformer("target", target), Exact(), ModelDrafter(Transformer("draft", draft)), 3)
    trace, prompt = Trace([], []), [5, 7, 9]
    (done,) = decoder.generate([Request(prompt, "a")], Sampling(temperature), StopAtTokens([]), 24, trace=trace)
    trace.close()
    text, place, checked = [*prompt, *done.tokens], len(prompt) + 1, 0
    for row in trace.rounds:
        assert len(row["draft_probabilities"]) == 3
        for number in range(min(row["accepted"], len(text) - place)):
            law = draft(input_ids=torch.tensor([text[: place + number]])).logits[0, -1].softmax(-1)
            assert row["draft_probabilities"][number] == pytest.approx(float(law[text[place + number]]), abs=1e-5)
            checked += 1
        place += row["accepted"] + 1
    assert checked


def test_a_table_and_a_figure():
    arm = {"edges": edges(rounds([[0.9, 0.2], 1], [[0.95], 1]))}
    summary = {"arms": {"sd": arm, "ar": {"edges": {}}}}
    (row,) = calibration_table(summary).rows
    assert row[:3] == ("sd", "draft>target", 3)
    with style.context(summary["arms"]):
        assert core.calibration(summary) is not None
        assert core.calibration({"arms": {"ar": {"edges": {}}}}) is None
    assert calibration_table({"arms": {"ar": {"edges": {}}}}) is None
