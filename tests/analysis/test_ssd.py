"""Metrics of a speculation cache, from rows whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from sdbench.analysis.metrics import ssd

VERIFY, BACKUP, GLUE, TREE, K = 10e-3, 4e-3, 1e-3, 1.5e-3, 4


def arm(hits, accepted, ranks=None):
    """Make one sequence decoded by ssd. The answer takes 0.1 ms after a hit; a miss adds the back-up."""
    rounds, steps, clock = [], [], 100.0
    for index, (hit, kept) in enumerate(zip(hits, accepted, strict=True)):
        received = clock + 0.05e-3
        replied = received + (0 if hit else BACKUP)
        answered = replied + 0.05e-3
        built = replied + GLUE + K * TREE
        rounds.append(
            {
                "arm": "ssd", "block": 0, "repeat": 0, "prompt_id": "p", "edge": "draft>target", "proposer": "draft",
                "verifier": "target", "round": index,
                "inner_round": 0, "proposed": K, "accepted": kept, "emitted": kept + 1, "outcome": "", "hit": hit,
                "rank": None if ranks is None else ranks[index], "asked": clock, "wanted": clock, "received": received,
                "replied": replied, "answered": answered, "built": built,
            }
        )  # fmt: skip
        common = {"arm": "ssd", "block": 0, "repeat": 0, "round": index, "rows": 1, "tokens": 5, "context": 64}
        steps.append(
            {**common, "role": "target", "kind": "verify", "seconds": VERIFY, "begun": answered, "concurrent": False}
        )
        steps.append({**common, "role": "draft", "kind": "glue", "seconds": GLUE, "begun": replied, "concurrent": True})
        steps += [
            {
                **common,
                "role": "draft",
                "kind": "tree",
                "seconds": TREE,
                "begun": replied + GLUE + d * TREE,
                "concurrent": True,
            }
            for d in range(K)
        ]
        clock = answered + VERIFY
    tokens = sum(accepted) + len(accepted) + 1
    sequences = pd.DataFrame(
        [{"arm": "ssd", "block": 0, "repeat": 0, "prompt_id": "p", "tokens": list(range(tokens)),
          "block_decode_seconds": clock - 100.0}]
    )  # fmt: skip
    return {"rounds": pd.DataFrame(rounds), "steps": pd.DataFrame(steps), "sequences": sequences}


HITS = [False, True, True, False, True, True]
ACCEPTED = [4, 2, 0, 4, 1, 3]


def test_hits_times_and_theorem_7():
    found = ssd.speculation(arm(HITS, ACCEPTED))
    assert found["hit_rate"] == pytest.approx(4 / 6)
    assert found["outcome_hit_rate"] == pytest.approx(4 / 5)
    assert found["hit_rate_by_accepted"] == {0: 0.0, 1: 1.0, 2: 1.0, 4: 1.0}
    assert found["hit_rate_after_hit"] == pytest.approx(2 / 3)
    assert found["hit_rate_after_miss"] == pytest.approx(1.0)
    assert found["tokens_per_round_on_hit"] == pytest.approx((2 + 0 + 1 + 3) / 4 + 1)
    assert found["tokens_per_round_on_miss"] == pytest.approx(5)
    times = found["seconds"]
    assert times["verify"] == pytest.approx(VERIFY)
    assert times["backup"] == pytest.approx(BACKUP)
    assert times["wait_on_hit"] == pytest.approx(0.1e-3)
    assert times["build"] == pytest.approx(GLUE + K * TREE)
    assert times["transport"] == pytest.approx(0.05e-3)
    # Theorem 7 has no transport time: 0.1 ms in each round of at least 10 ms.
    tokens = sum(ACCEPTED) + len(ACCEPTED)
    assert found["theorem_7_tokens_per_second"] == pytest.approx(tokens / (6 * VERIFY + 2 * BACKUP), rel=1e-6)
    assert found["best_draft_length"] == int((VERIFY - GLUE) / TREE)
    lanes = {bar["lane"] for bar in found["timeline"]}
    assert lanes == {"target", "draft"}


def test_an_arm_without_a_cache_has_nothing_to_say():
    rows = arm(HITS, ACCEPTED)
    rows["rounds"] = rows["rounds"].drop(columns=["hit", "wanted"])
    assert ssd.speculation(rows) is None
    assert ssd.overlapped(rows) is None


def test_ranks_give_the_hit_rate_of_any_fan_out():
    ranks = [1, 2, 9, 2, 3, 5]
    found = ssd.ranks(arm(HITS, ACCEPTED, ranks)["rounds"])
    assert found["outcomes"] == 6
    assert found["missed"]["1"] == pytest.approx(5 / 6)
    assert found["missed"]["8"] == pytest.approx(1 / 6)
    assert found["law"] == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 6, 2 / 6])
    # Ten branches over five positions, two each: the cache holds the outcomes of ranks one and two.
    six = ssd._held(np.array(ACCEPTED), np.array(ranks), [2] * 5)
    assert six == pytest.approx(3 / 6)


def test_corollary_9_is_of_a_cache_that_was_hit():
    """A short run without an outcome, or without a hit, has no bounds."""
    seconds = {"verify": 0.01}
    cache = {"theorem_7_tokens_per_second": 300.0, "tokens_per_round_on_hit": 4.0, "hit_rate": 0.8, "seconds": seconds}
    ours = {"speculation": cache, "config": {"draft_length": 4}, "tokens_per_second": 300.0}
    sd = {
        "speculation": None, "config": {"draft_length": 4}, "tokens_per_second": 200.0, "lossless": True,
        "edges": {"draft>target": {}}, "tokens_per_target_call": 4.0, "seconds_per_round": {"draft draft": 0.005},
    }  # fmt: skip
    assert ssd.bounds_over_sd(ours, {"sd": sd}) == {"over": "sd", "low": 1.5 / 1.1, "high": 1.5, "measured": 1.5}
    for lacking in ("hit_rate", "tokens_per_round_on_hit"):
        other = {**ours, "speculation": {**cache, lacking: float("nan")}}
        assert ssd.bounds_over_sd(other, {"sd": sd}) is None
