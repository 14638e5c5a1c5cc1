"""What the levels pick along answers, and the commands of chains."""

import pytest
import torch

from sdbench.harness import level_probe
from sdbench.harness.config import compose
from sdbench.harness.level_probe import command, config_of_all_roles, measure_levels
from sdbench.harness.plan import load, prepare
from sdbench.theory.hierarchies import Chain

TEXTS = [(list(range(5, 25)), [3, 4, 5, 6, 7, 8]), (list(range(30, 40)), [9, 30, 31, 32])]


@torch.inference_mode()
def test_what_each_level_picks(monkeypatch):
    monkeypatch.setattr(level_probe, "REPEATS", 1)
    words = ["arms=[ar]", "limit=1", "+models.cast.derive={from: target, quantize: mxfp4}", "max_new_tokens=8"]
    plan = prepare(config_of_all_roles(compose(words)))
    probe = measure_levels(plan, TEXTS)
    assert list(probe.times)[-1] == "target"
    times = [seconds[1] for seconds in probe.times.values()]
    assert times == sorted(times)
    answers = probe.answers
    assert answers.tokens == [token for _, answer in TEXTS for token in answer]
    assert answers.before == [24, 3, 4, 5, 6, 7, 39, 9, 30, 31]
    assert answers.starts == [0, 6]
    models = {role: model.model for role, model in load(plan).items()}
    for role in models.keys() & answers.choices.keys():
        first = [
            models[role](torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()
            for prompt, answer in TEXTS
        ]
        assert answers.choices[role] == [token for own in first for token in own]
    # Look-up has a match of two tokens behind `5 6` and `6 7` of the first text, and behind `30 31` of the second. It copies two
    # tokens for each matched one.
    assert answers.copied == [[], [], [], [], [7, 8, 9, 10], [8, 9, 10, 11, 12, 13], [], [], [], [32, 33, 34, 35]]


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
