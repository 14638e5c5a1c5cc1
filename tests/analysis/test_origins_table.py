"""The survival of tokens by the level that they come from, on rounds counted by hand and in a report."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sdbench.analysis.metrics.summary import summarise
from sdbench.analysis.report.origins_table import survival
from sdbench.analysis.report.write import report
from sdbench.runs.record import claim
from sdbench.runs.tables import frame, frames
from tests.runs.made import AR, PYRAMID, SD, meta, rows

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")
D, Q = "draft", "qualifier correction"


def verification(edge, accepted, count, origins=None):
    proposer, verifier = edge.split(">")
    row = {
        "arm": "pyramid", "prompt_id": "p", "repeat": 0, "block": 0, "edge": edge, "proposer": proposer, "verifier": verifier,
        "round": 0, "inner_round": 0, "proposed": count, "accepted": accepted, "emitted": accepted + 1, "outcome": "correction",
    }  # fmt: skip
    return row if origins is None else {**row, "origins": origins}


def test_counted_by_hand():
    given = [
        verification("draft>qualifier", 1, 3),
        verification("draft>qualifier", 2, 2),
        verification("qualifier>target", 3, 5, [D, Q, D, D, Q]),  # reached: d q d d; kept: d q d
        verification("qualifier>target", 1, 2, [D, Q]),  # reached: d q; kept: d
    ]
    counted = survival(frame("rounds", given)).to_numpy().tolist()
    found = {(edge, origin): numbers for edge, origin, *numbers in counted}
    assert found["draft>qualifier", D] == [5, 4, 3]
    assert found["qualifier>target", D] == [4, 4, 3]
    assert found["qualifier>target", Q] == [3, 2, 1]


def test_the_report_has_the_table_only_where_a_pair_drafts(tmp_path):
    def written(arms, name, origins):
        tables = frames(rows(arms, prompts=4))
        if origins:
            rounds = tables["rounds"]
            drafted = [
                np.array([D, Q] * count)[:count].tolist() if proposer == "qualifier" else None
                for proposer, count in zip(rounds["proposer"], rounds["proposed"], strict=True)
            ]
            tables["rounds"] = rounds.assign(origins=pd.Series(drafted, rounds.index))
        folder = claim(tmp_path / name, name)
        folder.describe({"seed": 0}, {"cpu": {"model": "abacus"}, "git": {"sha": "f" * 40, "dirty": True}})
        folder.finish(tables, summarise(tables, "ar", meta(arms)))
        text = report([folder.path]).read_text()
        return text, (folder.path / "report" / "report.html").read_text()

    for text in written([AR, SD, PYRAMID], "nested", True):
        assert "Origins and survival" in text
        assert "qualifier correction" in text
    assert not any("Origins and survival" in text for text in written([AR, SD], "flat", False))
