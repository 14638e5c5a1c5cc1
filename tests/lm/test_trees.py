"""Token trees in the caches of real models: each node gets the logits of its own path, in every execution mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.decoding import Speculative
from sdbench.drafting import DynamicTree, StagedDrafter, TreeDrafter
from sdbench.lm.early_exit import first_layers
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampler, Sampling
from sdbench.topology import Topology
from tests.conftest import V, random_model
from tests.lm.interpreted import Interpreted, Replayed
from tests.lm.test_loop import SAMPLINGS, decode, models

TREES = [Topology.branching([2, 2]), Topology.from_paths([[0], [1], [2], [0, 0], [0, 1], [0, 0, 0]])]
LENGTHS = [13, 9]


def state_of(tokens: torch.Tensor) -> DecodeState:
    trace = Trace()
    trace.sequence, trace.sequence_round = [0, 1], [0, 0]
    return DecodeState(tokens, np.array(LENGTHS), np.ones(2, bool), Sampler(Sampling()), trace)


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "qwen3-sliding", "gemma3", "gpt2"])
def test_a_node_sees_its_own_path(architecture):
    """Two rows of other lengths and other trees, against the plain forward over each path, before and after a path is kept."""
    raw = random_model(architecture)
    model = Transformer("target", raw)
    model.allocate(2, 40)
    generator = torch.Generator().manual_seed(1)
    state = state_of(torch.randint(0, V, (2, 40), generator=generator))
    for row in range(2):
        model.reset(row)
    model.read(state, [10, 4], "prefill")
    logits = model.read_tree(state, TREES, (0, 6), "verify").logits
    for row, (tree, length) in enumerate(zip(TREES, LENGTHS, strict=True)):
        for node in range(7):
            path = [int(state.tokens[row, length + i - 1]) for i in tree.path(node)]
            text = torch.tensor([[*state.tokens[row, :length].tolist(), *path]])
            torch.testing.assert_close(logits[row, node], raw(text).logits[0, -1], atol=2e-5, rtol=1e-4)
    paths = [TREES[0].path(5), TREES[1].path(4)]
    for row, path in enumerate(paths):
        state.write(row, LENGTHS[row], [int(state.tokens[row, LENGTHS[row] + i - 1]) for i in path] + [7])
    kept = [length + len(path) for length, path in zip(LENGTHS, paths, strict=True)]
    model.keep(kept, paths)
    assert model.kv_len == tuple(kept)
    after = model.read(state, [length + 1 for length in kept], "verify").logits
    for row, length in enumerate(kept):
        text = state.tokens[row : row + 1, : length + 1]
        torch.testing.assert_close(after[row, -1], raw(text).logits[0, -1], atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_first_layers_that_verify_a_tree_move_its_path():
    """The whole model has not read this tree, so the view itself must move the keys and values."""
    raw = random_model("llama")
    whole = Transformer("target", raw)
    view, alone = whole.truncated(2), first_layers(raw, 2, 4)
    for model in (whole, view):
        model.allocate(2, 40)
    generator = torch.Generator().manual_seed(1)
    state = state_of(torch.randint(0, V, (2, 40), generator=generator))
    view.score(state, 6, TREES)
    paths = [TREES[0].path(5), TREES[1].path(4)]
    for row, path in enumerate(paths):
        state.write(row, LENGTHS[row], [int(state.tokens[row, LENGTHS[row] + i - 1]) for i in path] + [7])
    kept = [length + len(path) for length, path in zip(LENGTHS, paths, strict=True)]
    view.keep(kept, paths)
    after = view.read(state, [length + 1 for length in kept], "verify").logits
    for row, length in enumerate(kept):
        expected = alone(state.tokens[row : row + 1, : length + 1], use_cache=False).logits[0, -1]
        torch.testing.assert_close(after[row, -1], expected, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_tree_can_be_read_level_by_level():
    raw = random_model("llama")
    whole, stepped = Transformer("target", raw), Transformer("draft", raw)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, V, (2, 40), generator=generator)
    trees = [TREES[0]] * 2
    for model in (whole, stepped):
        model.allocate(2, 40)
    state = state_of(tokens)
    once = whole.read_tree(state, trees, (0, 6), "verify").logits
    stepped.read(state, LENGTHS, "draft")
    levels = [stepped.read_tree(state, trees, part, "draft").logits for part in ((1, 2), (3, 6))]
    torch.testing.assert_close(torch.cat(levels, 1), once[:, 1:], atol=2e-5, rtol=1e-4)
    stepped.keep([14, 10], [[1, 3], [2]])
    assert stepped.kv_len == (14, 10)


@torch.inference_mode()
def test_a_model_keeps_only_the_nodes_that_it_has_read():
    model = Transformer("draft", random_model("llama", layers=2))
    model.allocate(2, 40)
    state = state_of(torch.zeros(2, 40, dtype=torch.long))
    model.read(state, LENGTHS, "draft")
    model.read_tree(state, [TREES[0]] * 2, (1, 2), "draft")
    model.keep([15, 10], [[2, 5], [1]])
    assert model.kv_len == (14, 10), "node 5 was drafted and not read"


ARMS = {
    "tree": lambda target, draft: Speculative(target, Exact(), TreeDrafter(draft, [2, 2, 1])),
    "independent": lambda target, draft: Speculative(target, Exact(), TreeDrafter(draft, [2, 2], "with")),
    "early exit": lambda target, draft: Speculative(target, Exact(), TreeDrafter(target.truncated(2), [2, 1], "top")),
    "dynamic": lambda target, draft: Speculative(target, Exact(), DynamicTree(draft, 3, 3, 6)),
    "below a stage": lambda target, draft: Speculative(
        target, Exact(), StagedDrafter(draft, Exact(), TreeDrafter(draft.truncated(2), [2], "top"), 2), 3
    ),
    "below an early exit": lambda target, draft: Speculative(
        target, Exact(), StagedDrafter(target.truncated(3), Exact(), TreeDrafter(draft, [2], "top"), 2), 3
    ),
}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(("mode", "architecture"), [(Interpreted, "qwen3-sliding"), (Replayed, "llama")])
def test_the_fast_modes_give_the_tokens_of_the_eager_one(mode, architecture, rows, arm):
    wanted, _ = decode(ARMS[arm](*models(architecture, None)), SAMPLINGS["sampled"], rows)
    got, trace = decode(ARMS[arm](*models(architecture, mode)), SAMPLINGS["sampled"], rows)
    assert got == wanted
    assert not any(step.get("missed") for step in trace.steps)


@pytest.mark.slow
def test_compiled_trees(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path))
    wanted, _ = decode(ARMS["tree"](*models("llama", None, 2)), SAMPLINGS["sampled"], 1)
    target, draft = models("llama", None, 2)
    target.execution, draft.execution = execution_of("compile"), execution_of("compile")
    got, trace = decode(ARMS["tree"](target, draft), SAMPLINGS["sampled"], 1)
    assert got == wanted
    assert not any(step.get("missed") for step in trace.steps)
