"""Drafts whose tokens are independent given the context: the law stays the target's, and wrong variants are found."""

from __future__ import annotations

import pytest
import torch

from sdbench.acceptance import BestChain, Exact, Traversal
from sdbench.acceptance.base import residual
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.decoding import Speculative
from sdbench.drafting import BestPaths, ParallelChains, ParallelDrafter, ParallelTree
from sdbench.drafting.parallel_tree import best_paths
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.sampling import Sampling, Scored
from sdbench.topology import Topology

V, MASK = 2, 1


@pytest.fixture
def models():
    return TabularModel("target", V, 1), TabularModel("draft", V, 3)


def distance(decoder, tokens):
    assert decoder.lossless, "it claims to be"
    return distance_from_target(decoder, decoder.target, tokens)


@pytest.mark.parametrize(
    ("make", "rule", "length", "tokens"),
    [
        (lambda model: ParallelDrafter(model, MASK), Exact(), 2, 3),
        (lambda model: ParallelTree(model, [2, 1], mask_token=MASK), Exact(), 0, 4),
        (lambda model: ParallelTree(model, paths=[[0], [1], [1, 0]], mask_token=MASK), Traversal(), 0, 4),
        (lambda model: ParallelTree(model, [1, 2], "without", mask_token=MASK), Exact(), 0, 3),
        (lambda model: ParallelTree(model, [2], "with", mask_token=MASK), Exact(), 0, 3),
        (lambda model: BestPaths(model, 2, 3, MASK), Exact(), 0, 4),
        (lambda model: ParallelChains(model, 1, 2, 1.5, MASK), BestChain(), 0, 3),
        pytest.param(lambda model: ParallelChains(model, 2, 2, 1.5, MASK), BestChain(), 0, 3, marks=pytest.mark.slow),
        (lambda model: ParallelChains(model, 1, 2, 0.5, MASK), Exact(), 0, 2),
    ],
)
def test_lossless(models, make, rule, length, tokens):
    target, draft = models
    assert distance(Speculative(target, rule, make(draft), length), tokens) < LOSSLESS


class OneLaw(ParallelDrafter):
    """Wrong: states the law of the first token for all of them."""

    def propose(self, state, length, key):
        draft = super().propose(state, length, key)
        assert draft.q is not None
        draft.q = Scored(draft.q.logits[:, :1].expand_as(draft.q.logits), draft.q.sampling)
        return draft


def test_a_wrong_q_is_found(models):
    target, draft = models
    assert distance(Speculative(target, Exact(), OneLaw(draft, MASK), 2), 3) > 1e-3


class DrawnChains(ParallelChains):
    """States the law that the chains were drawn from, as if no choice followed."""

    kind = ProposalKind.SAMPLED

    def propose(self, state, length, key):
        tokens, q = self.drawn(state, key)
        return Draft(
            tokens,
            torch.full((state.rows,), tokens.shape[1]),
            q,
            self.kind,
            True,
            topology=[self.topology] * state.rows,
        )


class RatioOfBest(BestChain):
    """Wrong: tests the chosen chain by min(1, p / q) and draws from the residual, as if it had been the only chain."""

    lossless_over = frozenset({ProposalKind.SAMPLED})

    def tree_law(self, draft, p):
        self.q = draft.q.probs
        return super().tree_law(draft, p)

    def chosen(self, tree, tokens, p):
        path, passes = super().chosen(tree, tokens, p)
        own = torch.stack([self.q[0, node - 1, tokens[node - 1]] for node in path])
        return path, (passes / own).clamp(max=1)

    def refused(self, draft, p, row, above, node):
        return residual(p.probs[row, above], self.q[row, node - 1])


def test_self_selection_needs_the_delta_rule(models):
    """The chain that the target likes best is no draw from q."""
    target, draft = models
    assert distance(Speculative(target, RatioOfBest(), DrawnChains(draft, 1, 2, 1.0, MASK)), 2) > 1e-3
    assert distance(Speculative(target, RatioOfBest(), DrawnChains(draft, 1, 1, 1.0, MASK)), 2) < LOSSLESS
    assert not Speculative(target, BestChain(), DrawnChains(draft, 1, 2, 1.0, MASK)).lossless


def test_the_best_chain_is_the_one_that_keeps_most():
    tree = Topology.branches(0, [0, 0], 2)
    p = torch.tensor([[[0.6, 0.4], [0.1, 0.9], [0.9, 0.1], [0.5, 0.5], [0.5, 0.5]]]).double()
    draft = Draft(
        torch.tensor([[0, 1, 0, 0]]), torch.tensor([4]), None, ProposalKind.DETERMINISTIC, True, topology=[tree]
    )
    scored = Scored(p.log(), Sampling(1.0))
    law = BestChain().tree_law(draft, scored)
    # Chain 0: 0.6 + 0.6 0.1 = 0.66. Chain 1: 0.4 + 0.4 0.9 = 0.76, at the nodes 2 and 4.
    torch.testing.assert_close(law.accepted, torch.tensor([[0.6, 0, 0.4 * 0.1, 0, 0.4 * 0.9]]).double())
    torch.testing.assert_close(law.next_token(torch.tensor([0])), torch.tensor([[1.0, 0]]).double())
    torch.testing.assert_close(law.next_token(torch.tensor([4])), torch.tensor([[0.5, 0.5]]).double())


def test_the_best_paths_are_those_of_a_full_search():
    torch.manual_seed(0)
    gains = torch.randn(3, 4).log_softmax(-1).sort(-1, descending=True).values.double()
    parents, ranks, depths = best_paths(gains.tolist(), 9)
    tree, scores = Topology.of(parents), [0.0]
    for node, (rank, depth) in enumerate(zip(ranks, depths, strict=True), start=1):
        assert tree.depth[node] == depth + 1
        assert tree.rank[node - 1] == rank
        scores.append(scores[parents[node - 1]] + float(gains[depth, rank]))
    two = (gains[0][:, None] + gains[1]).flatten()
    every = torch.cat([gains[0], two, (two[:, None] + gains[2]).flatten()])
    assert scores[1:] == pytest.approx(every.sort(descending=True).values[:9].tolist())
    assert [len(part) for part in best_paths([[0.0, -1.0]], 9)] == [2, 2, 2]
