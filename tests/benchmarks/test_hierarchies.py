"""The benchmark of hierarchies: the arms of chains, and the place of the chosen chain among the measured ones."""

from experiments.benchmarks.hierarchies import arms_of, compared

CHAINS = [
    {
        "levels": ["target", "target[2]", "draft"],
        "lengths": [6, 3],
        "speedup": 2.0,
        "planned": {"lengths": [6, 2], "speedup": 2.2},
        "command": "sdbench run arms=[ar,hierarchy] arms.hierarchy.draft_length=6 "
        "\"arms.hierarchy.proposer.levels=['target[2]',draft]\" arms.hierarchy.proposer.lengths=[3]",
    },
    {
        "levels": ["target"],
        "lengths": [],
        "speedup": 1.0,
        "planned": {"lengths": [], "speedup": 1.0},
        "command": "sdbench run arms=[ar]",
    },
]


def test_each_chain_is_an_arm():
    arms = arms_of(CHAINS)
    assert list(arms) == ["target > target[2] > draft [6, 3]", "ar"]
    arm = arms["target > target[2] > draft [6, 3]"]
    assert arm["draft_length"] == 6
    assert arm["proposer"]["levels"] == ["target[2]", "draft"]
    assert arm["proposer"]["lengths"] == [3]


def test_the_place_of_the_chosen_chain():
    measured = {"target > target[2] > draft [6, 3]": 0.8, "ar": 1.0}
    summary = {"arms": {name: {"speedup": s, "speedup_ci95": [s, s], "lossless": True} for name, s in measured.items()}}
    found = compared(CHAINS, summary)
    assert (found["chosen"], found["rank_measured"], found["best_measured"]) == (
        "target > target[2] > draft [6, 3]",
        2,
        "ar",
    )
    assert found["chosen_over_best"] == 0.8
    assert [row["predicted_speedup"] for row in found["chains"]] == [1.0, 2.0]
