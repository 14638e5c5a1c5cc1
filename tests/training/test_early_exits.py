"""Training for early exits, on the packaged tiny target: the exits agree with it more often on text that was held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import EarlyExit
from sdbench.errors import InputError
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.models.family import check_family
from sdbench.models.spec import family_specs
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from sdbench.tasks.texts import generate
from sdbench.training.corpus import Sample
from sdbench.training.job import Job
from sdbench.training.recipes.exit_heads import TrainExitHeads
from sdbench.training.recipes.layerskip import LayerSkip, SkippedLayers
from sdbench.training.tiny.data import encode

TARGET = "pkg://sdbench/assets/tiny/target"
TINY = Path(__file__).parents[2] / "sdbench" / "assets" / "tiny" / "target"


class Solved:
    """Word problems with their solutions, which are the answers."""

    def __init__(self, count: int) -> None:
        self._count = count

    @property
    def identity(self):
        return {"kind": "word problems"}

    def chunks(self, writer, have, seed):
        made = [encode(writer.tokenizer, generate("wordproblems", "train", 5, n)) for n in range(self._count)]
        yield [Sample(one.tokens, one.prompt_tokens, str(n)) for n, one in enumerate(made)]


def job(folder: Path, **more: Any) -> Job:
    return Job({"target": {"path": TARGET}}, folder / "model", folder / "work", **more)


def test_trained_exit_heads_agree_with_the_target_more_often(tmp_path):
    one = job(tmp_path, held_out={"first": Solved(8)})
    recipe = TrainExitHeads(Solved(48), 100_000, [2, 4], 5000, batch_tokens=1024, learning_rate=3e-3, top=16)
    before = {name: weight.clone() for name, weight in one.target.state_dict().items()}
    card = recipe.run(one)
    measured = card["measured"]
    assert card["held_out"]["first"]["greedy_2"] > measured["greedy_2_before"] + 0.05
    assert measured["greedy_2"] > measured["greedy_2_before"] + 0.05
    assert measured["alpha_2"] > measured["alpha_2_before"] + 0.05
    assert all(torch.equal(weight, before[name]) for name, weight in one.target.state_dict().items())
    held = load_file(tmp_path / "model" / "model.safetensors")
    assert not torch.equal(held["transforms.0.weight"], torch.eye(192))
    entries = {"target": {"path": TARGET}, "exit_heads": {"path": str(tmp_path / "model"), "head_of": "target"}}
    head = check_family(family_specs(entries)).members["exit_heads"].head
    assert head is not None
    assert head.layers == (2, 4)


def test_an_exit_that_the_target_lacks_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match="from 1 to 7"):
        TrainExitHeads(Solved(1), 100_000, [8]).run(job(tmp_path))
    assert not (tmp_path / "work").exists()


def acceptance(model) -> float:
    """The share of the drafted tokens of `early_exit` behind two layers that are kept."""
    target, trace = Transformer("target", model), Trace()
    decoder = Speculative(target, Exact(), EarlyExit(target, 2), 3)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompts = [generate("wordproblems", "test", 5, number).prompt for number in range(8)]
    requests = [Request(tokenizer.encode(prompt), str(number)) for number, prompt in enumerate(prompts)]
    list(decoder.generate(requests, Sampling(), NeverStop(), 32, rows=8, trace=trace))
    return sum(one["accepted"] for one in trace.rounds) / sum(one["proposed"] for one in trace.rounds)


@pytest.mark.slow
def test_a_target_trained_for_early_exit_keeps_its_quality_and_more_of_its_exits_tokens(tmp_path):
    one = job(tmp_path)
    recipe = LayerSkip(Solved(192), 100_000, 14000, batch_tokens=1536, learning_rate=5e-4, exit_scale=1.0, rotation=2)
    measured = recipe.run(one)["measured"]
    assert measured["greedy_2"] > measured["greedy_2_before"] + 0.03
    assert measured["loss"] < measured["loss_before"] + 0.1
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval().requires_grad_(False)
    assert acceptance(made) > acceptance(one.target)
    assert check_family(family_specs({"target": {"path": str(tmp_path / "model")}})).eos == one.family.eos


def test_layer_dropout_rises_with_depth_and_leaves_layers_out():
    recipe = LayerSkip(Solved(1), dropout=0.8)
    share = recipe.left_out(8, 20000, 0.5, 0, 3).float().mean(1)
    assert share[0] == 0
    assert share[-1] == pytest.approx(0.8, abs=0.02)
    assert share[4] == pytest.approx(0.8 * (2 ** (4 / 7) - 1), abs=0.02)
    slow = LayerSkip(Solved(1), dropout=0.8, dropout_curriculum="exponential")
    assert slow.left_out(8, 20000, 0.0, 0, 3).sum() == 0
    target = AutoModelForCausalLM.from_pretrained(TINY)
    model, tokens = SkippedLayers(target), torch.arange(20).view(2, 10)
    left_out = torch.zeros(8, 2, dtype=torch.bool)
    left_out[2:, 1] = True  # the second sequence runs through two layers only
    wanted = torch.ones(2, 10, dtype=torch.bool)
    with torch.no_grad():
        found = model.exits(tokens, wanted, [1, 7], left_out)
        whole = model.exits(tokens, wanted, [7])[7]
    torch.testing.assert_close(found[7].view(2, 10, -1)[1], found[1].view(2, 10, -1)[1])
    torch.testing.assert_close(found[7].view(2, 10, -1)[0], whole.view(2, 10, -1)[0])


def test_the_weights_of_the_exits_follow_the_paper():
    source = Solved(1)
    rotational = LayerSkip(source, exit_scale=0.2, rotation=3)
    weights = rotational.exit_weights(8, 1, 0.1)
    e = {1: 0.2 * 1, 4: 0.2 * (1 + 2 + 3 + 4), 7: 7 + 0.2 * (1 + 2 + 3 + 4 + 5 + 6)}
    assert weights == pytest.approx({layer: scale / sum(e.values()) for layer, scale in e.items()})
    assert set(rotational.exit_weights(8, 2, 0.1)) == {2, 5, 7}
    gradual = LayerSkip(source, exit_curriculum="gradual")
    assert set(gradual.exit_weights(8, 0, 0.0)) == {7}
    assert set(gradual.exit_weights(8, 0, 0.25)) == {7, 6, 5, 4, 3}
    assert set(gradual.exit_weights(8, 0, 0.5)) == {7, 6, 5, 4, 3, 2, 1}
