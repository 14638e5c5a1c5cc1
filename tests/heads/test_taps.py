"""Hidden states beside keys and values: those of transformers, also behind trees and in programs, and only for who asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdbench.decoding import Request, Speculative
from sdbench.errors import InputError
from sdbench.exactness.tabular import TabularModel
from sdbench.lm.programs.execution import Execution
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from sdbench.topology import Topology
from tests.conftest import ARCHITECTURES, V, random_model
from tests.heads.heads import TAPS, prompts, trained
from tests.heads.test_feature_head import decoded
from tests.lm.interpreted import Interpreted, Replayed
from tests.lm.test_transformer import context


def states(raw, tokens: torch.Tensor, layers: tuple[int, ...]) -> torch.Tensor:
    found = raw(tokens, output_hidden_states=True).hidden_states
    return torch.cat([found[layer] for layer in layers], -1)[0]


def check(model, raw, row: int, tokens: torch.Tensor, layers: tuple[int, ...]) -> None:
    count = tokens.shape[1]
    found = model.hidden(layers, np.full(count, row), np.arange(count))
    wanted = states(raw, tokens, layers)
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("mode", [Execution, Interpreted, Replayed])
@pytest.mark.parametrize(
    "architecture", [a if a == "qwen3-sliding" else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES]
)
def test_tapped_states_are_those_of_transformers(architecture, mode):
    """All layers from the embedding to the last norm, of two ragged rows: prefill, steps, a tree of which a path is kept."""
    raw, layers = random_model(architecture), (0, 1, 3, 4)
    model = Transformer("target", raw, execution=mode())
    model.allocate(2, 40)
    model.tap(layers)
    text = torch.randint(0, V, (2, 30), generator=torch.Generator().manual_seed(2))
    here = context(text, [14, 9], 40)
    for row, length in enumerate((10, 8)):
        model.read(here, np.full(2, length), "prefill", row=row)
    model.read(here, np.array([13, 8]), "verify", num_logits=2)
    tree = Topology.branching([2, 1])
    model.read_tree(here, [tree, tree], (0, 4), "verify")
    path = [2, 4]  # the second child, and its child
    model.keep([16, 11], [path, path])
    for row, length in enumerate((14, 9)):
        nodes = [int(here.tokens[row, length + node - 1]) for node in path]
        check(model, raw, row, torch.tensor([[*here.tokens[row, :length].tolist(), *nodes]]), layers)


@torch.inference_mode()
def test_taps_end_with_the_next_allocation_and_add_up_before():
    raw = random_model("llama")
    model = Transformer("target", raw)
    model.allocate(1, 20)
    model.tap([4])
    model.tap([1, 4])
    assert model.taps == (1, 4)
    here = context(torch.randint(0, V, (1, 20)), [6], 20)
    model.read(here, [6], "prefill", row=0)
    assert model.cached == (-5, -2, 0, 1, 2, 3)
    with pytest.raises(InputError, match="before its first step"):
        model.tap([2])
    with pytest.raises(InputError, match=r"no hidden states of the layers \[2\]"):
        model.hidden([2], np.array([0]), np.array([0]))
    model.allocate(1, 20)
    assert (model.taps, model.cached) == ((), (0, 1, 2, 3))
    with pytest.raises(InputError, match="hidden states 0 to 4"):
        model.tap([5])
    with pytest.raises(InputError, match="no hidden states that can be read"):
        TabularModel("target", 4, 0).tap([0])


@pytest.mark.parametrize("mode", [Interpreted, pytest.param(Execution, marks=pytest.mark.slow)])
def test_an_arm_without_a_head_pays_nothing(mode):
    raw, module = trained("llama")
    plain = Transformer("target", raw, execution=mode())

    def run(target):
        requests = [Request(prompt, str(i)) for i, prompt in enumerate(prompts())]
        return [one.tokens for one in Speculative(target).generate(requests, Sampling(), NeverStop(), 6)]

    tokens = run(plain)
    assert min(plain.pool.keys) >= 0, "no layer of hidden states"
    _, _, shared, _ = decoded(raw, module, "chain", 1, mode)
    assert shared.taps == TAPS
    held = {number: layer.clone() for number, layer in shared.pool.keys.items() if number < 0}
    assert held
    assert run(shared) == tokens
    assert shared.taps == ()
    assert shared.cached == (0, 1, 2, 3)
    for number, layer in held.items():
        assert torch.equal(shared.pool.keys[number], layer), "the steps of the other arm wrote nothing there"
    assert shared.bytes == sum(w.numel() * 4 for w in raw.parameters()) + shared.pool.bytes
    if mode is Interpreted:
        assert shared.execution.tap_sets == [(), TAPS], "each arm has programs of its own"
        assert shared.inputs_for(1, 1, 5) is not None
        assert shared.taps == ()
        assert shared.inputs_for(1, 5, 5) is not None, "only the head's arm verifies five tokens"
        assert shared.taps == TAPS
