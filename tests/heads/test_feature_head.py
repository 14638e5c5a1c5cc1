"""A head over the features of its target: its logits equal a plain computation, and decoding with it gives the target's tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import DynamicTree, ModelDrafter, StagedDrafter, TreeDrafter
from sdbench.errors import InputError
from sdbench.lm.feature_head import feature_head
from sdbench.lm.kv_cache import FEATURES, KVCache
from sdbench.lm.programs.execution import Execution
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from sdbench.topology import Topology
from tests.conftest import V, random_model
from tests.heads.heads import NEW, PROPOSED, TAPS, generated, head_config, plain, prompts, random_head, trained
from tests.lm.interpreted import Interpreted, Replayed
from tests.lm.test_transformer import context

LENGTHS = [9, 6]  # of the decided tokens of two rows
ARMS = {
    "chain": lambda head: (ModelDrafter(head), 4),
    "tree": lambda head: (TreeDrafter(head, [2, 2, 1], siblings="top"), 0),
    "dynamic": lambda head: (DynamicTree(head, depth=4, top_k=2, budget=6), 0),
}


def opened(raw, module, execution=None):
    """A target and its head, which have read the decided tokens of two rows as a decoder lets them."""
    target = Transformer("target", raw)
    head = feature_head("eagle3", module, target, execution)
    target.allocate(2, 40)
    head.allocate(2, 40)
    text = torch.randint(0, V, (2, 40), generator=torch.Generator().manual_seed(4))
    state = context(text, LENGTHS, 40)
    for row, length in enumerate(LENGTHS):
        target.read(state, np.array([length - 3] * 2), "prefill", row=row)
        head.read(state, np.array([length - 3] * 2), "prefill", row=row)
    target.read(state, np.array(LENGTHS) - 1, "verify")
    return target, head, state


def expected(module, raw, state, row: int, tokens: list[int], **more) -> torch.Tensor:
    decided = LENGTHS[row]
    return plain(module, raw, [*state.tokens[row, :decided].tolist(), *tokens], decided, **more)


def close(found: torch.Tensor, module, wanted: torch.Tensor) -> bool:
    assert bool((found[~module.t2d] == -torch.inf).all())
    return bool(torch.allclose(found[module.proposed], wanted, atol=1e-5 * float(wanted.abs().max()) * 3, rtol=1e-4))


@torch.inference_mode()
@pytest.mark.parametrize("mode", [Execution, Interpreted])
@pytest.mark.parametrize(("architecture", "more"), [("llama", {}), ("qwen3", {"norm_before_residual": True})])
def test_a_chain_equals_the_plain_computation(architecture, more, mode):
    """Two ragged rows: decided tokens with the target's features, drafted ones with the head's own; again behind a verdict."""
    raw = random_model(architecture)
    module = random_head(raw, head_config(architecture, **more))
    target, head, state = opened(raw, module, mode())
    drafted = state.tokens.clone()
    for ahead in range(3):
        ends = [length + ahead for length in LENGTHS]
        logits = head.read(state, ends, "draft", num_logits=2 if ahead == 0 else 1).logits[:, -1]
        for row, length in enumerate(LENGTHS):
            assert close(
                logits[row], module, expected(module, raw, state, row, drafted[row, length : length + ahead].tolist())
            )
    # One token of row 0 and two of row 1 are kept. The head has read them with features of its own, so it reads them again.
    target.read(state, [length + 3 for length in LENGTHS], "verify", num_logits=4)
    kept = [LENGTHS[0] + 1, LENGTHS[1] + 2]
    target.keep(kept)
    head.keep(kept)
    assert head.kv_len == tuple(LENGTHS)
    state = state.ahead(np.array(kept) + 1, state.active)
    logits = head.read(state, state.length, "draft").logits[:, -1]
    for row, length in enumerate(state.length.tolist()):
        assert close(logits[row], module, plain(module, raw, state.tokens[row, :length].tolist(), length))


@torch.inference_mode()
def test_each_node_of_a_tree_is_read_with_the_feature_of_its_parent():
    raw = random_model("llama")
    module = random_head(raw, head_config())
    _, head, state = opened(raw, module)
    trees = [Topology.branching([2, 2]), Topology.from_paths([[0], [1], [0, 0], [0, 1], [1, 0], [1, 1]])]
    head.read(state, LENGTHS, "draft")
    for nodes in ((1, 2), (3, 6)):
        logits = head.read_tree(state, trees, nodes, "draft").logits
        for row, (tree, length) in enumerate(zip(trees, LENGTHS, strict=True)):
            for place, node in enumerate(range(nodes[0], nodes[1] + 1)):
                path = [int(state.tokens[row, length + i - 1]) for i in tree.path(node)]
                assert close(logits[row, place], module, expected(module, raw, state, row, path))


@torch.inference_mode()
def test_another_feature_gives_other_logits(monkeypatch):
    """A negative control: a token that is read with the feature of its own place, and not of its parent."""
    raw = random_model("llama")
    module = random_head(raw, head_config())

    def own(self, mask, tokens):
        at = self._first + torch.arange(mask.shape[2])[None] if self._at is None else self._at
        held = self.keys[FEATURES][self._rows][:, 0]
        return held.gather(1, at[:, :, None].expand(-1, -1, held.shape[2]))

    monkeypatch.setattr(KVCache, "parent_features", own)
    _, head, state = opened(raw, module)
    logits = head.read(state, LENGTHS, "draft").logits[:, -1]
    assert not any(close(logits[row], module, expected(module, raw, state, row, [])) for row in range(2))


@torch.inference_mode()
def test_a_head_below_another_stage_reads_each_parent_before_its_children():
    """Tokens that a stage in between decided run ahead of the target's features: the head goes on with its own."""
    raw = random_model("llama")
    module = random_head(raw, head_config())
    _, head, state = opened(raw, module)
    further = state.ahead(np.array([12, 7]), state.active)
    logits = head.read(further, further.length, "draft").logits[:, -1]
    for row, (length, decided) in enumerate(zip([12, 7], LENGTHS, strict=True)):
        assert close(logits[row], module, plain(module, raw, state.tokens[row, :length].tolist(), decided))


def decoded(raw, module, arm: str, rows: int, mode=Execution):
    target = Transformer("target", raw, execution=mode())
    head = feature_head("eagle3", module, target, mode())
    method = Speculative(target, Exact(), *ARMS[arm](head))
    requests = [Request(prompt, str(i)) for i, prompt in enumerate(prompts())]
    trace = Trace()
    done = list(method.generate(requests, Sampling(), NeverStop(), NEW, 0, rows=rows, trace=trace))
    return {one.request.name: one.tokens for one in done}, trace, target, head


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("architecture", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_greedy_tokens_are_those_of_generate(architecture, arm, rows):
    raw, module = trained(architecture)
    tokens, trace, _, _ = decoded(raw, module, arm, rows)
    assert tokens == {str(i): generated(raw, prompt) for i, prompt in enumerate(prompts())}
    kept = {record["accepted"] for record in trace.rounds}
    assert len(kept) > 2, "some drafts are kept, some are not"


@pytest.mark.parametrize("mode", [Interpreted, pytest.param(Replayed, marks=pytest.mark.slow)])
@pytest.mark.parametrize("arm", ARMS)
def test_programs_give_the_same_tokens_and_drafts(arm, mode):
    raw, module = trained("llama")
    eager, first, *_ = decoded(raw, module, arm, 3)
    tokens, trace, target, head = decoded(raw, module, arm, 3, mode)
    assert tokens == eager
    assert [one["accepted"] for one in trace.rounds] == [one["accepted"] for one in first.rounds]
    assert target.execution.made
    assert head.execution.made


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["chain", "tree"])
def test_compiled_programs_give_the_same_tokens_and_drafts(arm):
    raw, module = trained("llama")
    eager, first, *_ = decoded(raw, module, arm, 3)
    tokens, trace, *_ = decoded(raw, module, arm, 3, lambda: execution_of("compile"))
    assert tokens == eager
    assert [one["accepted"] for one in trace.rounds] == [one["accepted"] for one in first.rounds]


def test_a_pyramid_over_a_head_gives_the_targets_tokens():
    raw, module = trained("llama")
    target, qualifier = Transformer("target", raw), Transformer("qualifier", random_model("llama", seed=1))
    inner = StagedDrafter(qualifier, Exact(), ModelDrafter(feature_head("eagle3", module, target)), 2)
    method = Speculative(target, Exact(), inner, 4)
    prompt = prompts()[2]
    (done,) = method.generate([Request(prompt, "one")], Sampling(), NeverStop(), NEW)
    assert done.tokens == generated(raw, prompt)


def test_what_a_head_cannot_do_is_refused():
    raw = random_model("llama")
    target = Transformer("target", raw)
    head = feature_head("eagle3", random_head(raw, head_config()), target)
    assert head.proposable == PROPOSED
    assert head.max_positions == target.max_positions
    with pytest.raises(InputError, match="in the process of target"):
        head.bare()
    with pytest.raises(InputError, match="no early exit"):
        head.truncated(1)
    with pytest.raises(InputError, match="cannot verify"):
        head.score(context(torch.zeros(1, 4, dtype=torch.long), [2], 4), 1)
    deeper = Transformer("target", random_model("llama", layers=2))
    with pytest.raises(InputError, match=r"\[1, 2, 4\] of a target with 2 layers"):
        feature_head("eagle3", random_head(raw, head_config()), deeper)
    assert head.tapped == TAPS
