"""The acceptance between levels, counted by hand, and the commands of chains."""

import numpy as np
import pytest
import torch

from sdbench.harness import level_probe
from sdbench.harness.config import compose
from sdbench.harness.level_probe import command, config_of_all_roles, measure_levels
from sdbench.harness.plan import load, prepare
from sdbench.theory.hierarchies import Chain

TEXTS = [(list(range(5, 25)), [3, 4, 5, 6, 7, 8]), (list(range(30, 40)), [9, 30, 31, 32])]


@torch.inference_mode()
def test_the_acceptance_of_each_pair(monkeypatch):
    monkeypatch.setattr(level_probe, "REPEATS", 1)
    words = ["arms=[ar]", "limit=1", "+models.cast.derive={from: target, quantize: mxfp4}", "max_new_tokens=8"]
    plan = prepare(config_of_all_roles(compose(words)))
    levels, edges = measure_levels(plan, TEXTS, host=10.0, drafting=0.5)
    assert levels[-1].name == "target"
    times = [level.seconds(0) for level in levels if level.verifies]
    assert times[:-1] == sorted(times[:-1])
    assert times[-1] > 10
    models = {role: model.model for role, model in load(plan).items()}
    answers = [token for _, answer in TEXTS for token in answer]
    first = {
        role: np.concatenate(
            [
                model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].argmax(-1).numpy()
                for prompt, answer in TEXTS
            ]
        )
        for role, model in models.items()
    }
    first["target"] = np.array(answers)
    for (low, high), edge in edges.items():
        if low in first and high in first:
            assert edge.acceptance == pytest.approx(np.mean(first[low] == first[high]))
            assert edge.offered == 1
    # Look-up has a match of two tokens behind `5 6` and `6 7` of the first text, and behind `30 31` of the second.
    copied, _ = level_probe._copied(TEXTS)
    assert copied.tolist() == [-1, -1, -1, -1, 7, 8, -1, -1, -1, 32]


@pytest.mark.parametrize(
    ("levels", "lengths", "words"),
    [
        (("target",), (), []),
        (("target", "lookup"), (4,), ["draft_length=4", "levels=[]", "lengths=[]", "PromptLookup"]),
        (("target", "target[2]", "draft"), (6, 3), ["draft_length=6", "target[2]", "lengths=[3]"]),
    ],
)
def test_the_command_of_a_chain(levels, lengths, words):
    said = command(Chain(levels, lengths, 1.0, 1.0))
    assert said.startswith("sdbench run ")
    assert all(word in said for word in words)
