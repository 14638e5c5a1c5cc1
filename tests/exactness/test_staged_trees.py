"""A stage that hands up a tree: its tokens have the laws that it states, so the output keeps the target's law."""

from __future__ import annotations

import pytest
import torch

from sdbench.acceptance import Exact, Fuzzy, KSeq, Match, Typical
from sdbench.decoding import Request, Speculative
from sdbench.drafting import DynamicTree, ModelDrafter, StagedTree, TreeDrafter
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop


def family(vocab):
    return [TabularModel(name, vocab, seed) for name, seed in (("target", 1), ("qualifier", 2), ("draft", 3))]


def distance(decoder, tokens):
    return distance_from_target(decoder, decoder.target, tokens)


@pytest.mark.parametrize(
    ("vocab", "below", "siblings", "budget", "rule", "tokens"),
    [
        (2, ([2], "top"), 2, 4, Exact(), 3),
        (2, ([1, 1], "top"), 2, 6, Exact(), 3),
        (2, ([1], "top"), 1, 2, Exact(), 3),
        pytest.param(2, ([1, 1], "without"), 1, 3, Exact(), 2, marks=pytest.mark.slow),
        (2, ([2], "top"), 2, 4, Match(), 3),
        (2, ([2], "with"), 1, 1, KSeq(), 2),
        (3, ([1], "without"), 2, 2, Exact(), 2),
        pytest.param(3, ([2], "without"), 2, 2, Exact(), 2, marks=pytest.mark.slow),
        pytest.param(3, ([1], "without"), 2, 4, Exact(), 2, marks=pytest.mark.slow),
    ],
)
def test_lossless(vocab, below, siblings, budget, rule, tokens):
    target, qualifier, draft = family(vocab)
    decoder = Speculative(target, Exact(), StagedTree(qualifier, rule, TreeDrafter(draft, *below), siblings, budget))
    assert decoder.lossless
    assert distance(decoder, tokens) < LOSSLESS


def test_three_stages():
    target, qualifier, draft = family(2)
    below = StagedTree(draft, Exact(), DynamicTree(TabularModel("first", 2, 4), 1, 2, 2), 1, 2)
    decoder = Speculative(target, Exact(), StagedTree(qualifier, Exact(), below, 2, 4))
    assert decoder.lossless
    assert distance(decoder, 2) < LOSSLESS


class RejectedSiblings(StagedTree):
    """Wrong: hands up the rejected candidate of the stage as the younger sibling, as if the qualifier had drawn it."""

    def _younger(self, state, law, nodes, name):
        token = super()._younger(state, law, nodes, name)
        (row,), (node,) = self._rows, nodes.tolist()
        refused = [row.drafted[child - 1] for child in row.tree.children[node]]
        other = [one for one in refused if law[0, one] > -torch.inf]
        return torch.tensor(other[:1]) if other else token


class EldestLaw(StagedTree):
    """Wrong: states the eldest sibling's law for all of them."""

    def _draft(self, p, laws):
        return super()._draft(p, [laws[index - index % self.siblings] for index in range(len(laws))])


class ValueDropped(StagedTree):
    """Wrong: drops the youngest node where its token is 0, after it was drawn."""

    def _draft(self, p, laws):
        for row in self._rows:
            if row.tokens and row.tokens[-1] == 0:
                row.tokens.pop()
                row.parent.pop()
        return super()._draft(p, laws[: max(len(row.tokens) for row in self._rows)])


@pytest.mark.parametrize(
    ("wrong", "siblings", "budget"), [(RejectedSiblings, 2, 2), (EldestLaw, 2, 2), (ValueDropped, 2, 2)]
)
def test_a_wrong_stage_is_rejected(wrong, siblings, budget):
    target, qualifier, draft = (TabularModel(name, 3, seed) for name, seed in zip("tqd", (1, 12, 9), strict=True))
    decoder = Speculative(target, Exact(), wrong(qualifier, Exact(), TreeDrafter(draft, [1]), siblings, budget))
    assert decoder.lossless, "it claims to be"
    assert distance(decoder, 2) > 1e-3


def test_a_lossy_rule_below_makes_the_whole_lossy():
    target, qualifier, draft = family(2)
    decoder = Speculative(target, Exact(), StagedTree(qualifier, Typical(0.4, 0.9), TreeDrafter(draft, [2], "top")))
    assert not decoder.lossless
    assert distance(decoder, 2) > 1e-3


def test_a_draft_states_what_it_drew():
    """The tree has the children that were asked for, and the law of a younger sibling has no mass on its elder."""
    target, qualifier, draft = family(5)
    seen = []

    class Watched(StagedTree):
        def _draft(self, p, laws):
            seen.append(super()._draft(p, laws))
            return seen[-1]

    stage = Watched(qualifier, Exact(), TreeDrafter(draft, [2, 2]), 2, 6)
    trace = Trace()
    requests = [Request([0, 1, 2], str(number)) for number in range(3)]
    list(Speculative(target, Exact(), stage).generate(requests, Sampling(1.0), NeverStop(), 12, rows=3, trace=trace))
    assert len({draft.topology[0].size for draft in seen}) > 1, "its size depends on the draws"
    for made in seen:
        for tree, tokens, laws in zip(made.topology, made.tokens, made.q.probs, strict=True):
            assert tree.size <= 6
            for children in tree.children:
                assert len(children) in (0, 2)
                for rank, child in enumerate(children):
                    assert laws[child - 1, tokens[child - 1]] > 0
                    assert all(laws[child - 1, tokens[elder - 1]] == 0 for elder in children[:rank])
    inner = [row for row in trace.rounds if row["verifier"] == "qualifier"]
    assert inner
    assert all(row["accepted"] <= row["emitted"] <= row["accepted"] + 1 for row in inner)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_batch_does_not_matter(temperature):
    def decoded(rows):
        target, qualifier, draft = family(4)
        stage = StagedTree(qualifier, Exact(), TreeDrafter(draft, [2, 1]), 2, 8)
        requests = [Request([0, 1] * (1 + number % 3), str(number)) for number in range(6)]
        decoder = Speculative(target, Exact(), stage)
        finished = decoder.generate(requests, Sampling(temperature), NeverStop(), 10, seed=3, rows=rows)
        return {done.request.name: done.tokens for done in finished}

    assert decoded(3) == decoded(1)


def test_what_cannot_hand_up_a_tree_is_refused():
    _, qualifier, draft = family(2)
    with pytest.raises(InputError, match="only over a proposer of token trees"):
        StagedTree(qualifier, Exact(), ModelDrafter(draft))
    with pytest.raises(InputError, match="Fuzzy is defined along a chain"):
        StagedTree(qualifier, Fuzzy(0.2), TreeDrafter(draft, [2]))
    with pytest.raises(InputError, match=r"proposer.budget is 2; it must be .* from 3 to"):
        StagedTree(qualifier, Exact(), TreeDrafter(draft, [2]), 3, 2)
