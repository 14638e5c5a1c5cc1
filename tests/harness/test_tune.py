"""The probe and what is predicted from it, on small random models; and the pyramid's simulation against counted rounds."""

import shlex

import numpy as np
import pytest

from sdbench.errors import InputError
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.harness.tune import table, tune
from sdbench.simulate.events import Latencies
from sdbench.simulate.pyramid import InnerStage, pyramid_speed

ALIKE = Latencies("", "", verify={1: (3.0,), 20: (3.0,)}, draft=(0.0,))


def test_a_pyramid_whose_stages_agree_takes_counted_rounds():
    stage = InnerStage(1.0, (0.5,), {1: (1.0,), 9: (1.0,)})
    strings = [np.ones(27, int)]
    # l_D = 3: 4 tokens an inner round, two of them for l_Q = 6, so 8 + 1 tokens an outer round: 3 of them.
    assert pyramid_speed(strings, ALIKE, stage, 3, 6) == pytest.approx(27 / (3 * (2 * (3 * 0.5 + 1.0) + 3.0)))


def test_a_pyramid_whose_stages_never_agree_is_the_target_with_a_burden():
    stage = InnerStage(0.0, (0.5,), {1: (1.0,), 9: (1.0,)}, host=(0.25,))
    strings = [np.full(5, 2)]
    # Each inner round yields one token, of which the target keeps none.
    assert pyramid_speed(strings, ALIKE, stage, 2, 4) == pytest.approx(5 / (5 * (4 * (1.0 + 1.0 + 0.25) + 3.0)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["arms=[sd]"], "its own arms"),
        (["sampling.temperature=1"], "greedy"),
        (["batch_size=4"], "one sequence at a time"),
        (["max_new_tokens=3"], "answers of 16 tokens or more"),
    ],
)
def test_what_it_cannot_predict_is_refused(words, said):
    with pytest.raises(InputError, match=said):
        tune(words)


@pytest.mark.slow
def test_the_tiny_family_is_tuned():
    document = tune(["limit=2", "max_new_tokens=32"])
    speeds = [row["tokens_per_second"] for row in document["predicted"]]
    assert speeds == sorted(speeds, reverse=True)
    assert document["best"] == document["predicted"][0]
    arms = {row["arm"] for row in document["predicted"]}
    assert arms == {"ar", "lookup", "sd", "sequoia", "sd_qualifier", "pyramid"}
    for name, row in document["measured"].items():
        assert row["predicted"] is not None, name
        # Two prompts on a machine that may be busy: the order of magnitude, no more.
        assert 0.3 < row["predicted"] / row["measured"] < 3, name
    assert document["best"]["command"].startswith("sdbench run arms=[ar,")
    chains = document["chains"]
    assert document["chain"] == chains[0]
    assert [chain["tokens_per_second"] for chain in chains] == sorted(
        (chain["tokens_per_second"] for chain in chains), reverse=True
    )
    below = {"qualifier", "draft", "lookup", "target[2]", "target[4]"}
    assert {name for chain in chains for name in chain["levels"]} <= {"target", *below}
    assert {"qualifier", "draft", "lookup"} <= {name for chain in chains for name in chain["levels"]}
    assert len({tuple(chain["levels"]) for chain in chains}) == len(chains)
    assert all(0.5 < same["chain_speedup"] / same["speedup"] < 2 for same in document["twice"])
    assert all(same["chain"] in table(document) for same in document["twice"])
    # A command gives the chain that it names.
    deepest = max(chains, key=lambda chain: len(chain["levels"]))
    (_, arm) = prepare(compose(shlex.split(deepest["command"])[2:])).stub_arms
    assert [*arm.views, "lookup"] == deepest["levels"]
    stages = [arm.decoder, *(stage for stage, _ in arm._proposers)]
    assert [stage.draft_length for stage in stages[:-1]] == deepest["lengths"]
    trees = [row for row in document["predicted"] if row["arm"] == "sequoia"]
    config = compose(trees[0]["command"].removeprefix("sdbench run ").split())  # its overrides are those of the arm
    proposer = config["arms"]["sequoia"]["proposer"]
    assert {f"proposer.{knob}": value for knob, value in proposer.items()}.items() >= trees[0]["setting"].items()
    assert "arms.sequoia.proposer.acceptance=[" in trees[0]["command"]
    assert trees[0]["command"].split("acceptance=")[1].split("]")[0] in table(document)
    assert len({row["setting"]["proposer.budget"] for row in trees}) > 5


def test_a_family_with_only_a_target_gets_a_look_up():
    document = tune(["~models.draft", "~models.qualifier", "tasks=records", "limit=2", "max_new_tokens=32"])
    rows = [row for row in document["predicted"] if row["arm"] == "lookup"]
    assert {row["arm"] for row in document["predicted"]} == {"ar", "lookup"}
    assert {row["setting"]["proposer.per_match"] for row in rows} == {1, 2, None}
    assert any("arms.lookup.proposer.per_match=null" in row["command"] for row in rows)


@pytest.mark.slow
@pytest.mark.timing
def test_the_choice_is_within_ten_percent_of_the_best_of_a_sweep(tmp_path):
    from sdbench.harness.run import run

    document = tune([])
    assert document["seconds"] < 120
    best = document["best"]
    chosen = ",".join(f"{knob}={value}" for knob, value in best["setting"].items())
    grids = [
        "arms.sd.grid.draft_length=[2,4,6,8,10,12]",
        "arms.sd_qualifier.grid.draft_length=[2,4,6]",
        "arms.pyramid.grid.proposer.draft_length=[2,3,4,6]",
        "arms.pyramid.grid.draft_length=[6,10,16]",
    ]
    words = ["arms=[ar,sd,sd_qualifier,pyramid]", "limit=12", "tracker=none", f"out={tmp_path / 'sweep'}", *grids]
    _, swept, _ = run(prepare(compose(words)))
    speeds = {name: arm["tokens_per_second"] for name, arm in swept["arms"].items()}
    again = best["command"].removeprefix("sdbench run ").split()
    _, single, _ = run(prepare(compose([*again, "limit=12", "tracker=none", f"out={tmp_path / 'best'}"])))
    ratio = single["arms"][best["arm"]]["speedup"] / (max(speeds.values()) / speeds["ar"])
    assert ratio > 0.9, (chosen, ratio, speeds)
