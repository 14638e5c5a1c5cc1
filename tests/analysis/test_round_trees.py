"""The page's token trees: each round of an arm that drafts trees, with the texts of the nodes and the kept path."""

from __future__ import annotations

import pytest

from sdbench.analysis.report import drilldown, round_trees
from sdbench.analysis.report.page import page as html_page
from sdbench.runs.record import load
from tests.analysis.recorded import PARENTS, UNSEEN, record, with_trees
from tests.runs.made import AR, PYRAMID, SD

pytestmark = pytest.mark.filterwarnings("ignore::sdbench.analysis.stats.intervals.FewPrompts")


@pytest.fixture
def run(tmp_path):
    return with_trees(load(record(tmp_path / "demo", [AR, SD, PYRAMID])), "sd")


def test_a_run_without_trees_has_none(tmp_path):
    run = load(record(tmp_path / "demo", [AR, SD]))
    assert round_trees.by_sequence(run.rounds, run.sequences) == {}
    data = drilldown.drilldown(run)
    assert data["shapes"] == []
    assert all(len(given) == 2 for prompt in data["prompts"] for given in prompt["arms"])
    assert "Token trees" not in html_page([run], [run.path]).split("<script")[0]


def test_each_round_has_its_tree(run):
    found = round_trees.by_sequence(run.rounds, run.sequences)
    assert {key[0] for key in found} == {"sd"}
    rounds = run.rounds[(run.rounds["arm"] == "sd") & (run.rounds["prompt_id"] == "p1")]
    trees = found["sd", "p1", 0]
    assert [number for number, *_ in trees] == sorted(rounds["round"])
    assert [end for _, end, *_ in trees] == [number % 5 for number in sorted(rounds["round"])]
    row = run.sequences[(run.sequences["arm"] == "sd") & (run.sequences["prompt_id"] == "p1")].iloc[0]
    assert all(parents == PARENTS for _, _, parents, _ in trees)
    assert all(labels[0] == f"#{UNSEEN}" for *_, labels in trees), "no sequence shows a text of this id"
    assert all(len(labels) == len(PARENTS) for *_, labels in trees)
    texts = {}  # the first piece of each id, over the whole run
    for tokens, pieces in zip(run.sequences["tokens"], run.sequences["pieces"], strict=True):
        for token, piece in zip(tokens, pieces, strict=True):
            texts.setdefault(token, piece)
    assert trees[0][3][1:] == [texts[token] for token in row["tokens"][:3]]


def test_the_page_has_the_trees_by_prompt(run):
    data = drilldown.drilldown(run)
    assert data["shapes"] == [PARENTS]
    arm = data["arms"].index("sd")
    for prompt in data["prompts"]:
        assert [len(given) for given in prompt["arms"]] == [2, 3, 2]
        expected = round_trees.by_sequence(run.rounds, run.sequences)["sd", prompt["id"], 0]
        shown = prompt["arms"][arm][2]
        assert [(number, end, data["shapes"][shape]) for number, end, shape, _ in shown] == [
            tree[:3] for tree in expected
        ]
        assert [[data["pieces"][i] for i in labels] for *_, labels in shown] == [tree[3] for tree in expected]
    assert "Token trees" in html_page([run], [run.path]).split("<script")[0]


def test_trees_need_room(run, tmp_path):
    plain = load(record(tmp_path / "plain", [AR, SD, PYRAMID]))
    room = 1
    while sum("texts" in prompt for prompt in drilldown.drilldown(plain, room)["prompts"]) < 3:
        room += 50
    assert sum("texts" in prompt for prompt in drilldown.drilldown(run, room)["prompts"]) < 3
