"""The split of a reasoning model's rounds at the end of its thinking."""

import pandas as pd
import pytest

from sdbench.analysis.metrics.thinking import thinking, thinking_tokens
from sdbench.analysis.report.thinking_table import thinking_table


@pytest.mark.parametrize(
    ("pieces", "count"),
    [
        (["<think>", "a", "b", "</think>", "c"], 4),
        (["a", "</th", "ink>", "c"], 3),  # the opening belongs to the prompt
        (["<think>", "a", "b"], 3),  # cut while it thinks
        (["a", "b"], None),
        ([], None),
    ],
)
def test_where_thinking_ends(pieces, count):
    assert thinking_tokens(pieces) == count


def test_rounds_are_split():
    sequences = pd.DataFrame(
        {
            "prompt_id": ["p", "q"],
            "repeat": [0, 0],
            "pieces": [["<think>", "a", "b", "</think>", "c", "d", "e"], ["x", "y"]],
        }
    )
    rounds = pd.DataFrame(
        [
            ("p", "draft>target", "target", 3, 2, 3),  # tokens 1 to 3: thinking, with its end
            ("p", "draft>target", "target", 3, 1, 2),
            ("p", "draft>target", "target", 3, 0, 1),
            ("q", "draft>target", "target", 3, 0, 1),
        ],
        columns=["prompt_id", "edge", "verifier", "proposed", "accepted", "emitted"],
    ).assign(repeat=0)
    found = thinking(sequences, rounds)
    assert found == {
        "sequences": 1,
        "thinking": {"rounds": 1, "tokens_per_target_call": 3.0, "acceptance_rate": pytest.approx(2 / 3)},
        "answer": {"rounds": 2, "tokens_per_target_call": 1.5, "acceptance_rate": pytest.approx(1 / 6)},
    }
    table = thinking_table({"arms": {"sd": {"thinking": found}, "ar": {"thinking": None}}})
    assert [row[:3] for row in table.rows] == [("sd", "thinking", 1), ("sd", "answer", 2)]


def test_a_template_that_opens_the_thinking():
    sequences = pd.DataFrame(
        {"prompt_id": ["p", "q"], "repeat": [0, 0], "pieces": [["a", "</think>", "b"], ["a", "b"]]}
    )
    rounds = pd.DataFrame(
        [("p", "draft>target", "target", 1, 1, 2), ("q", "draft>target", "target", 1, 0, 1)],
        columns=["prompt_id", "edge", "verifier", "proposed", "accepted", "emitted"],
    ).assign(repeat=0)
    found = thinking(sequences, rounds)
    assert found["sequences"] == 2  # the second was cut while it thinks
    assert found["thinking"]["rounds"] == 2


def test_without_thinking_there_is_no_split():
    sequences = pd.DataFrame({"prompt_id": ["p"], "repeat": [0], "pieces": [["a"]]})
    assert thinking(sequences, pd.DataFrame()) is None
    assert thinking(sequences.drop(columns="pieces"), pd.DataFrame()) is None
    assert thinking_table({"arms": {"sd": {"thinking": None}}}) is None
