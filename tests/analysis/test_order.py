"""The test of acceptance over the order of the prompts: it finds a memory that grows, and is silent without one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sdbench.acceptance import Exact
from sdbench.analysis.metrics.order import ALPHA, order_trend, updates
from sdbench.decoding import Request, Speculative
from sdbench.drafting import SuffixDecoding, TokenRecycling
from sdbench.exactness import TabularModel
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop


def sequences(values, categories=None, repeats=1):
    """Rows of prompts with these tokens per target call."""
    rows = [
        {
            "prompt_id": str(number),
            "category": categories[number] if categories else "",
            "repeat": repeat,
            "tokens": [0] * (1 + int(100 * value)),
            "target_calls": 100,
        }
        for repeat in range(repeats)
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


class Speaker(TabularModel):
    """A target whose next token depends on the last tokens alone, so that answers to different prompts are alike."""

    last = 2

    def table(self, context):
        return super().table(context[-self.last :])


def measured(proposer, vocab, last, sharpness=4.0):
    """Decode 60 prompts of their own with one drafter, one after the other."""
    target = Speaker("target", vocab, 1, sharpness)
    target.last = last
    decoder = Speculative(target, Exact(), proposer, 4)
    decoder.begin_pass()
    generator = np.random.default_rng(0)
    requests = [Request(generator.integers(0, vocab, 6).tolist(), str(number)) for number in range(60)]
    done = decoder.generate(requests, Sampling(1.0), NeverStop(), 24, seed=5)
    rows = [
        {"prompt_id": one.request.name, "category": "", "tokens": one.tokens, "target_calls": one.target_calls}
        for one in done
    ]
    return order_trend(pd.DataFrame(rows))


@pytest.mark.parametrize("memory", ["run", "sequence"])
def test_a_store_of_earlier_answers_is_found(memory):
    trend = measured(SuffixDecoding(2.0, memory=memory), 12, 2)
    assert trend is not None
    assert trend["rises"] == (memory == "run"), trend


@pytest.mark.parametrize("memory", ["run", "sequence"])
def test_a_matrix_that_is_kept_is_found(memory):
    trend = measured(TokenRecycling([0.6, 0.2], 4, 3, memory), 600, 1, 6.0)
    assert trend is not None
    assert trend["rises"] == (memory == "run"), trend


def test_flat_acceptance_raises_no_alarm_and_a_rise_does():
    generator = np.random.default_rng(1)
    noise = generator.normal(2.0, 0.2, (150, 30))
    alarms = [order_trend(sequences(values)) for values in noise]
    low = [trend["p"] for trend in alarms if trend]
    assert len(low) == 150
    assert np.mean(np.array(low) < 0.05) == pytest.approx(0.05, abs=0.04), "p is uniform without a trend"
    assert sum(p < ALPHA for p in low) <= 2
    rising = order_trend(sequences(noise[0] + np.linspace(0, 1, 30), repeats=2))
    assert rising is not None
    assert rising["rises"]
    assert rising["rho"] > 0.5
    falling = order_trend(sequences(noise[0] - np.linspace(0, 1, 30)))
    assert falling is not None
    assert not falling["rises"]


def test_prompts_that_are_sorted_by_category_make_no_trend():
    values = [1.5] * 15 + [3.0] * 15
    noise = np.random.default_rng(2).normal(0, 0.1, 30)
    mixed, apart = (order_trend(sequences(np.add(values, noise), kind)) for kind in (None, ["a"] * 15 + ["b"] * 15))
    assert mixed is not None
    assert apart is not None
    assert mixed["rises"]
    assert not apart["rises"]


def test_few_prompts_and_equal_acceptance():
    assert order_trend(sequences([1.0] * 9)) is None
    trend = order_trend(sequences([1.0] * 12))
    assert trend is not None
    assert trend["p"] == 1.0
    assert not trend["rises"]


def test_updates_are_summed():
    rounds = pd.DataFrame({"update_seconds": [0.5, np.nan, 1.5], "update_positions": [3, np.nan, 4]})
    assert updates(rounds, 8.0) == {"count": 2, "positions": 7, "seconds": 2.0, "share": 0.25}
    assert updates(rounds[1:2], 8.0) is None
    assert updates(pd.DataFrame({"proposed": [1]}), 8.0) is None
