"""Energy per token: each block counts once, and blocks without a reading do not count."""

import pandas as pd
import pytest

from sdbench.analysis.metrics.speed import joules_per_token


def sequences(joules):
    rows = [("a", 0, 0, [1, 2]), ("a", 0, 0, [1, 2, 3]), ("a", 1, 0, [1] * 5)]
    table = pd.DataFrame(rows, columns=["arm", "block", "repeat", "tokens"])
    return table if joules is None else table.assign(block_joules=joules)


def test_a_block_counts_once():
    assert joules_per_token(sequences([20.0, 20.0, 30.0])) == pytest.approx(5.0)
    assert joules_per_token(sequences([20.0, 20.0, None])) == pytest.approx(4.0)


@pytest.mark.parametrize("joules", [None, [None, None, None]])
def test_without_a_reading_there_is_no_number(joules):
    assert joules_per_token(sequences(joules)) is None
