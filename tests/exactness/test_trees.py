"""Token trees through whole decodings on tabular models: kept paths move in the caches, and the law stays the target's."""

from __future__ import annotations

import pytest
import torch

from sdbench.acceptance import Block, Exact, Fuzzy, KSeq, Match, SpecHub, Traversal, Typical, ZhouJoint
from sdbench.decoding import Request, Speculative
from sdbench.drafting import DynamicTree, ModelDrafter, StagedDrafter, TreeDrafter
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.model import LanguageModel
from sdbench.sampling import Sampling, Scored
from sdbench.stopping import NeverStop

V = 2


@pytest.fixture
def models():
    return [TabularModel(name, V, seed) for name, seed in (("target", 1), ("qualifier", 2), ("draft", 3))]


def distance(decoder, tokens):
    return distance_from_target(decoder, decoder.target, tokens)


@pytest.mark.parametrize(
    ("widths", "siblings", "rule", "tokens"),
    [
        ([2], "without", Exact(), 3),
        ([2], "with", Exact(), 3),
        ([2, 1], "without", Exact(), 2),
        ([2, 1], "top", Exact(), 4),
        ([1, 2], "top", Match(), 4),
        ([2, 2], "top", Exact(), 3),
        ([2], "hub", SpecHub(), 3),
        ([2, 1], "hub", SpecHub(), 2),
        ([2], "without", Traversal(), 3),
        ([2, 1], "without", Traversal(), 2),
        ([2, 1], "with", Traversal(), 2),
        ([2, 2], "top", Traversal(), 3),
        ([2, 1], "hub", Traversal(), 2),
    ],
)
def test_lossless(models, widths, siblings, rule, tokens):
    target, _, draft = models
    decoder = Speculative(target, rule, TreeDrafter(draft, widths, siblings))
    assert decoder.lossless
    assert distance(decoder, tokens) < LOSSLESS


@pytest.mark.parametrize(("depth", "top_k", "budget"), [(1, 2, 2), (2, 2, 3), (3, 2, 4), (2, 1, 1)])
def test_a_dynamic_tree_is_lossless(models, depth, top_k, budget):
    """Its shape differs from round to round, and the draft has read other nodes than are verified."""
    target, _, draft = models
    decoder = Speculative(target, Exact(), DynamicTree(draft, depth, top_k, budget))
    assert decoder.lossless
    assert distance(decoder, 4) < LOSSLESS
    assert distance(Speculative(target, Traversal(), DynamicTree(draft, depth, top_k, budget)), 4) < LOSSLESS


@pytest.mark.parametrize("truncate", [False, True])
def test_traversal_below_a_stage(models, truncate):
    target, qualifier, draft = models
    stage = StagedDrafter(qualifier, Traversal(), TreeDrafter(draft, [2, 1], "top"), 1, truncate)
    decoder = Speculative(target, Exact(), stage, 1)
    assert decoder.lossless
    assert distance(decoder, 3) < LOSSLESS


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_tree_proposed_to_the_qualifier(models, dynamic):
    target, qualifier, draft = models
    proposer = DynamicTree(draft, 1, 2, 2) if dynamic else TreeDrafter(draft, [2], "top")
    stage = StagedDrafter(qualifier, Exact(), proposer, 1)
    decoder = Speculative(target, Exact(), stage, 1)
    assert decoder.lossless
    assert distance(decoder, 3) < LOSSLESS


class QNotStated(TreeDrafter):
    """Wrong: draws without replacement, but states the law of the eldest sibling for all of them."""

    def _children(self, state, logits, families, names):
        tokens, _ = super()._children(state, logits, families, names)
        return tokens, Scored(logits.repeat_interleave(torch.tensor(families), 1), state.sampler.sampling)


def test_a_wrong_q_is_rejected(models):
    target, draft = TabularModel("target", 4, 1), TabularModel("draft", 4, 3)
    decoder = Speculative(target, Exact(), QNotStated(draft, [2]))
    assert decoder.lossless, "it claims to be"
    assert distance(decoder, 2) > 1e-3


def test_a_path_that_is_not_moved_is_rejected(models, monkeypatch):
    """Wrong: the caches keep the nodes where they were read."""
    target, _, draft = models
    monkeypatch.setattr(TabularModel, "_move", lambda *args: None)
    decoder = Speculative(target, Exact(), TreeDrafter(draft, [2, 1], "top"))
    assert distance(decoder, 4) > 1e-3


def test_typical_acceptance_is_lossy(models):
    target, _, draft = models
    decoder = Speculative(target, Typical(0.4, 0.9), TreeDrafter(draft, [2], "top"))
    assert not decoder.lossless
    assert distance(decoder, 2) > 1e-3


def decoded(target: LanguageModel, proposer, rows=1, sampling=None):
    decoder = Speculative(target, Exact(), proposer, 3)
    requests = [Request([0, 1] * (1 + number % 3), str(number)) for number in range(12)]
    finished = decoder.generate(requests, sampling or Sampling(1.0), NeverStop(), 12, seed=3, rows=rows)
    return {done.request.name: done.tokens for done in finished}


def test_a_tree_of_width_one_is_a_chain(models):
    """The same draws, so the same tokens as the drafter of chains."""
    target, _, draft = models
    assert decoded(target, TreeDrafter(draft, [1, 1, 1])) == decoded(target, ModelDrafter(draft))


@pytest.mark.parametrize("siblings", ["without", "top"])
def test_the_batch_does_not_matter(models, siblings):
    target, _, draft = models
    assert decoded(target, TreeDrafter(draft, [2, 2], siblings), rows=3) == decoded(
        target, TreeDrafter(draft, [2, 2], siblings)
    )


def test_rules_for_siblings_of_one_kind_refuse_others(models):
    target, qualifier, draft = models
    with pytest.raises(InputError, match=r"siblings drawn as 'hub'.*set proposer\.siblings=hub"):
        Speculative(target, SpecHub(), TreeDrafter(draft, [2], "without"))
    with pytest.raises(InputError, match=r"set proposer\.siblings=with,"):
        StagedDrafter(qualifier, KSeq(), TreeDrafter(draft, [2], "without"), 1)
    with pytest.raises(InputError, match="siblings drawn as 'hub'"):
        Speculative(target, SpecHub(), DynamicTree(draft, 2, 2, 3))
    with pytest.raises(InputError, match="at most 2"):
        TreeDrafter(draft, [3], "hub")
    assert Speculative(target, SpecHub(), ModelDrafter(draft), 2).lossless, "a chain has no siblings"


@pytest.mark.parametrize("rule", [Block(), ZhouJoint()], ids=["block", "zhou_joint"])
def test_joint_rules_of_chains_refuse_trees(models, rule):
    target, _, draft = models
    with pytest.raises(InputError, match=f"{type(rule).__name__} is defined along a chain.*traversal"):
        Speculative(target, rule, TreeDrafter(draft, [2, 1]))


def test_rules_along_a_chain_refuse_trees(models):
    target, qualifier, draft = models
    with pytest.raises(InputError, match="Fuzzy is defined along a chain"):
        Speculative(target, Fuzzy(0.2), TreeDrafter(draft, [2, 1]))
    with pytest.raises(InputError, match="Fuzzy is defined along a chain"):
        StagedDrafter(qualifier, Fuzzy(0.2), TreeDrafter(draft, [2, 1]), 2)
