"""Trainings are compared by their cards, and only where they had the same text and budget."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sdbench.papers.recipe_tables import compared, conditions


def card(held_out: dict[str, Any], **recipe: Any) -> dict[str, Any]:
    made = {"processor": "A", "device": "cpu", "dtype": "float32", "threads": 2, "torch": "2", "revision": None}
    return {
        "target": "sha256:1",
        "data": {"sha256": "2", "sequences": 7, "answer_tokens": 900},
        "recipe": {"tokens": 1800, "learning_rate": 1e-3, "vocabulary": 50, **recipe},
        "made_with": made,
        "held_out": {"math": held_out},
    }


DRAFT = card({"sequences": 3, "alpha": 0.5, "alpha_ci95": [0.4, 0.6], "greedy": 0.75, "greedy_ci95": [0.7, 0.8]})
HEAD = card({"sequences": 3, "alpha_1": 0.25, "alpha_2": 0.125, "greedy_1": 0.5, "alpha_1_ci95": [0.2, 0.3]})


def test_a_draft_has_one_row_and_a_head_one_for_each_depth():
    rows = compared({"distill": DRAFT, "head": HEAD}, "alpha").cells()
    assert rows == [
        ["distill", "all", "0.500 [0.400, 0.600]"],
        ["head", "1", "0.250 [0.200, 0.300]"],
        ["head", "2", "0.125"],
    ]
    assert compared({"distill": DRAFT}, "greedy").cells()[0][2] == "0.750 [0.700, 0.800]"


def test_what_is_common_is_said():
    assert conditions({"distill": DRAFT, "head": HEAD}).startswith(
        "Every training reads 1,800 answer tokens, from 900 "
    )


@pytest.mark.parametrize(
    ("place", "key", "value"), [("data", "sha256", "3"), ("recipe", "tokens", 5), ("made_with", "dtype", "bfloat16")]
)
def test_unequal_trainings_are_not_compared(place, key, value):
    other = copy.deepcopy(HEAD)
    other[place][key] = value
    with pytest.raises(ValueError, match="the trainings distill, head have other data, budgets or machines"):
        conditions({"distill": DRAFT, "head": other})
    other[place][key] = HEAD[place][key]
    other["made_with"]["revision"] = "another one may have trained it"
    conditions({"distill": DRAFT, "head": other})
