"""The origins of tokens: single rounds by hand, whole runs by their lengths."""

from __future__ import annotations

import pytest

from sdbench.analysis.report import token_origins
from sdbench.runs.tables import frames
from tests.runs.made import AR, PSD_FUZZY, PYRAMID, SD, SD_QUALIFIER, rows


@pytest.mark.parametrize(
    ("verifications", "expected"),
    [
        ([("", "target", 0, 0, 1, "bonus")], ["f", "t"]),
        ([("draft", "target", 3, 1, 2, "correction")], ["f", "dc"]),
        ([("draft", "target", 3, 3, 4, "bonus")], ["f", "dddb"]),
        ([("draft", "target", 3, 3, 2, "bonus")], ["f", "dd"]),  # cut at a stop
        ([("draft", "target", 3, 3, 3, "bonus")], ["f", "ddd"]),  # PEARL continues without a token of the target
        ([("qualifier", "target", 2, 2, 3, "bonus")], ["f", "qqb"]),
        ([("lookup", "target", 0, 0, 1, "bonus"), ("lookup", "target", 2, 0, 1, "correction")], ["f", "t", "c"]),
    ],
)
def test_rounds_of_one_stage(verifications, expected):
    assert token_origins.of_rounds(verifications) == expected


def test_a_qualifier_adds_its_own_token_to_each_inner_round():
    inner = [("draft", "qualifier", 3, 1, 2, "correction"), ("draft", "qualifier", 3, 3, 4, "bonus")]
    # The buffer is d q d d d q; the target keeps five and corrects the sixth.
    assert token_origins.of_rounds([*inner, ("qualifier", "target", 6, 5, 6, "correction")]) == ["f", "dqdddc"]
    # A buffer cut to four tokens is kept whole.
    assert token_origins.of_rounds([*inner, ("qualifier", "target", 4, 4, 5, "bonus")]) == ["f", "dqddb"]


def test_a_pyramid_of_three_stages():
    stages = [
        ("draft", "middle", 2, 2, 3, "bonus"),  # d d q
        ("middle", "qualifier", 3, 1, 2, "correction"),  # d q
        ("draft", "middle", 2, 0, 1, "correction"),  # q
        ("middle", "qualifier", 1, 1, 2, "bonus"),  # q q
        ("qualifier", "target", 4, 4, 5, "bonus"),
    ]
    assert token_origins.of_rounds(stages) == ["f", "dqqqb"]


def test_every_token_of_a_run_has_an_origin():
    tables = frames(rows([AR, SD, SD_QUALIFIER, PYRAMID, PSD_FUZZY], prompts=3, repeats=2))
    lengths = {
        (row.arm, row.prompt_id, row.repeat): len(row.tokens) for row in tables["sequences"].itertuples(index=False)
    }
    found = dict(token_origins.by_sequence(tables["rounds"]))
    assert {key: len("".join(tokens)) for key, tokens in found.items()} == lengths
    assert set("".join(found["pyramid", "p0", 0])) >= {"f", "d", "q"}
