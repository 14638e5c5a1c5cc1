"""The parts of a round add up to the round."""

import pandas as pd
import pytest

from experiments.benchmarks.rounds import AROUND, WHOLE, profile, synchronous


def _steps(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["block", "repeat", "round", "role", "kind", "begun", "seconds"])


def test_what_is_not_a_forward_is_around_the_forwards():
    rows = [(0, 0, -1, "target", "prefill", 0.0, 0.5)]
    for number in range(4):  # rounds of 10 ms: two draft steps of 1 ms, a verification of 5 ms
        start = 1 + number / 100
        rows += [(0, 0, number, "draft", "draft", start, 0.001), (0, 0, number, "draft", "draft", start + 0.002, 0.001)]
        rows += [(0, 0, number, "target", "verify", start + 0.004, 0.005)]
    rows += [(1, 0, 0, "target", "verify", 9.0, 0.005)]  # the only round of another block has no successor
    found = profile(_steps(rows))
    expected = {"draft draft": 2.0, "target verify": 5.0, AROUND: 3.0, WHOLE: 10.0, "rounds": 3}
    assert found == pytest.approx(expected)


def test_arms_with_a_concurrent_draft_are_left_out():
    steps = _steps([(0, 0, 0, "target", "verify", 0.0, 0.1)])
    assert synchronous(steps)
    assert not synchronous(steps.assign(concurrent=True))
    assert not synchronous(steps.assign(kind="tree"))
    assert not synchronous(steps.iloc[:0])
