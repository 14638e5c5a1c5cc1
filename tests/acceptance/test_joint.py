"""Rules that judge several tokens together, by enumeration: their laws, what they keep, and the faults that the proof must see."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st

from sdbench.acceptance import Block, Draft, Exact, Law, ProposalKind, Traversal, ZhouJoint
from sdbench.acceptance.base import taken
from sdbench.acceptance.block import backward
from sdbench.acceptance.draft import OVER_DRAWN
from sdbench.sampling import Sampling, Scored
from sdbench.topology import Topology

from . import trees
from .enumeration import (
    SAMPLINGS,
    WORLDS,
    Table,
    chain_law,
    completed,
    distance,
    norm,
    round_law,
    tensors,
    verifiers_own,
    warped,
)

ONCE = Sampling(1.0)
JOINT = {"block": Block(), "zhou_joint": ZhouJoint(), "traversal": Traversal()}


def off_by(rule, K, worlds=tuple(WORLDS), samplings=SAMPLINGS):
    """The largest distance of the law of K + 1 tokens from the verifier's own."""
    return max(
        distance(
            completed(round_law(rule, WORLDS[name], K, sampling), WORLDS[name][0], K + 1, sampling),
            verifiers_own(WORLDS[name][0], K + 1, sampling),
        )
        for name in worlds
        for sampling in samplings
    )


def kept(emitted):
    """The mean number of kept drafted tokens: all emitted ones but the last."""
    return sum((len(tokens) - 1) * weight for tokens, weight in emitted.items())


def block_by_hand(world, K, sampling):
    """The law of one round from the paper's algorithm: the longest block whose own coin comes up, in plain Python."""
    p, q = world
    out = defaultdict(float)
    for chain in itertools.product(range(p.V), repeat=K):
        drawn = chain_law(q, chain, sampling)
        if drawn == 0:
            continue
        ofs = [(warped(p(chain[:n]), sampling), warped(q(chain[:n]), sampling)) for n in range(K)]
        share, coins, rests = 1.0, [], []
        for token, (of_p, of_q) in zip(chain, ofs, strict=True):
            above = [max(share * a - b, 0.0) for a, b in zip(of_p, of_q, strict=True)]
            total = sum(above) + 1 - share
            coins.append(sum(above) / total if total > 0 else 1.0)
            rests.append(norm(above))
            share = min(1.0, share * of_p[token] / of_q[token])
        coins[0] = 1.0
        for outcome in itertools.product([False, True], repeat=K + 1):
            heads = [*coins, share]
            weight = math.prod(h if up else 1 - h for h, up in zip(heads, outcome, strict=True))
            if weight == 0:
                continue
            n = max(n for n in range(K + 1) if outcome[n])
            following = rests[n] if n < K else warped(p(chain), sampling)
            for token, mass in enumerate(following):
                out[(*chain[:n], token)] += drawn * weight * mass
    return out


@pytest.mark.parametrize("K", [1, 2, 3])
def test_the_law_is_the_papers_algorithm(K):
    for world in WORLDS.values():
        for sampling in SAMPLINGS:
            assert distance(round_law(Block(), world, K, sampling), block_by_hand(world, K, sampling)) < 1e-12


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("K", [1, 2, 3])
def test_lossless(name, K):
    assert off_by(JOINT[name], K) < 1e-12


@pytest.mark.parametrize("name", JOINT)
def test_lossless_over_a_chain_whose_length_depends_on_tokens_that_stay(name):
    """A draft that ends behind token 0, wherever that stands: a row of length 1 has the law of a draft of 1."""
    world, out = WORLDS["random"], defaultdict(float)
    chains = list(itertools.product(range(3), repeat=2))
    draft, p = tensors(world, chains, ONCE)
    draft.length = torch.tensor([1 if chain[0] == 0 else 2 for chain in chains])
    law = JOINT[name].law(draft, p)
    torch.testing.assert_close(law.accepted.sum(-1), torch.ones(len(chains)).double(), atol=1e-12, rtol=0)
    for n in range(3):
        following = law.next_token(torch.full((len(chains),), n))
        for row, chain in enumerate(chains):
            drawn = chain_law(world[1], chain, ONCE) * float(law.accepted[row, n])
            for token in range(3):
                out[(*chain[:n], token)] += drawn * float(following[row, token])
    assert distance(completed(out, world[0], 3, ONCE), verifiers_own(world[0], 3, ONCE)) < 1e-12


@pytest.mark.parametrize("K", [1, 2, 3])
def test_a_joint_rule_never_keeps_fewer_than_the_exact_rule(K):
    gains = [
        kept(round_law(Block(), world, K, sampling)) - kept(round_law(Exact(), world, K, sampling))
        for world in WORLDS.values()
        for sampling in SAMPLINGS
    ]
    assert min(gains) > -1e-12
    assert (max(gains) > 0.01) == (K > 1), "for one token both are the same rule"


def constant(*weights):
    """A table that says the same behind every context."""
    return Table(len(weights), lambda context: [math.log(float(weight)) for weight in weights])


def test_the_papers_example():
    """Two tokens, p = (1/3, 2/3), q = (2/3, 1/3), K = 2: 10/9 kept by the exact rule, 11/9 by block verification."""
    world = constant(Fraction(1, 3), Fraction(2, 3)), constant(Fraction(2, 3), Fraction(1, 3))
    assert kept(round_law(Exact(), world, 2, ONCE)) == pytest.approx(10 / 9, abs=1e-12)
    assert kept(round_law(Block(), world, 2, ONCE)) == pytest.approx(11 / 9, abs=1e-12)


@pytest.mark.parametrize("name", ["zhou_joint", "traversal"])
def test_other_joint_rules_have_the_law_of_block_verification(name):
    for world, sampling in itertools.product(WORLDS.values(), SAMPLINGS):
        chains = [c for c in itertools.product(range(world[0].V), repeat=3) if chain_law(world[1], c, sampling) > 0]
        draft, p = tensors(world, chains, sampling)
        draft.topology = [Topology.chain(3)] * len(chains)
        rule, block = JOINT[name], Block().law(draft, p)
        law = rule.tree_law(draft, p) if isinstance(rule, Traversal) else rule.law(draft, p)
        torch.testing.assert_close(law.accepted, block.accepted, atol=1e-12, rtol=0)
        for n in range(4):
            at = torch.full((len(chains),), n)
            reached = block.accepted[:, n] > 1e-9
            torch.testing.assert_close(law.next_token(at)[reached], block.next_token(at)[reached], atol=1e-9, rtol=0)


logits = st.lists(st.floats(-4, 4), min_size=3, max_size=3)


@settings(max_examples=10, deadline=None)
@given(st.lists(logits, min_size=4, max_size=4), st.lists(logits, min_size=4, max_size=4))
def test_any_two_models(ps, qs):
    """Random models whose law depends on the number of tokens and on the last one."""

    def table(rows):
        return Table(3, lambda context: rows[(len(context) + sum(context[-1:])) % len(rows)])

    world = table(ps), table(qs)
    emitted = {rule: round_law(rule, world, 3, ONCE) for rule in (Block(), ZhouJoint(), Exact())}
    block, zhou, exact = emitted.values()
    assert distance(completed(block, world[0], 4, ONCE), verifiers_own(world[0], 4, ONCE)) < 1e-12
    assert distance(block, zhou) < 1e-9
    assert kept(block) > kept(exact) - 1e-12


# Faults that were released: under the name of Zhou's rule (FA A.2), and of block verification (FA B.1).


class WholeDraftUncapped(ZhouJoint):
    """Wrong: keeps the whole draft with probability min(1, r_K), as the released code does."""

    def shares(self, p, q):
        shares = super().shares(p, q)
        return torch.cat([shares[:, :-1], (p / q).prod(1, keepdim=True).clamp(max=1)], 1)


class CappedAtNewMaximaOnly(WholeDraftUncapped):
    """Wrong: `algorithm.py` assigns a prefix its mass only where its ratio is a new maximum, and leaves 1 elsewhere."""

    def stops(self, p, q, shares):
        return super().stops(p, q, self.masses)

    def shares(self, p, q):
        ratios = torch.cat([torch.ones_like(p[:, :1]), (p / q).cumprod(1)], 1)
        before = torch.cat([torch.ones_like(p[:, :1]), ratios.cummax(1).values[:, :-1]], 1)
        of_q = torch.cat([torch.ones_like(q[:, :1]), q.cumprod(1)], 1)
        shares = torch.where(ratios > before, 1.0, 1 / of_q)
        self.masses = shares[:, :-1]
        return torch.cat([shares[:, :-1], super().shares(p, q)[:, -1:]], 1)


class LastRatioIgnored(ZhouJoint):
    """Wrong: the test of the whole draft ignores the last token (the package on PyPI)."""

    def shares(self, p, q):
        shares = super().shares(p, q)
        return torch.cat([shares[:, :-1], shares[:, -2:-1]], 1)


class ResidualOfTheWrongPlace(Block):
    """Wrong: the correction comes from the residual one place earlier (the package on PyPI)."""

    def law(self, draft, p, memory=None):
        law, earlier = super().law(draft, p), super().law(draft, p).next_token
        law.next_token = lambda n: torch.where((n == draft.length)[:, None], earlier(n), earlier((n - 1).clamp(min=0)))
        return law


class PlainResidual(Block):
    """Wrong: stops as block verification does, but draws from norm((p - q)+), as the exact rule does."""

    def law(self, draft, p, memory=None):
        return Law(super().law(draft, p).accepted, Exact().law(draft, p).next_token)


class CoinsOfTheExactRule(Block):
    """Wrong: stops at n with probability P_n, which leaves out the tokens that n kept ones can still be followed by."""

    def law(self, draft, p, memory=None):
        q = draft.scored(p)
        shares = self.shares(taken(p.probs, draft.tokens), taken(q.probs, draft.tokens))
        return backward(draft, p, q, shares, shares[:, :-1])


FAULTS = [
    WholeDraftUncapped(),
    CappedAtNewMaximaOnly(),
    LastRatioIgnored(),
    ResidualOfTheWrongPlace(),
    PlainResidual(),
    CoinsOfTheExactRule(),
]


@pytest.mark.parametrize("rule", FAULTS, ids=lambda rule: type(rule).__name__)
def test_the_proof_rejects_released_faults(rule):
    assert rule.lossless_over == OVER_DRAWN, "it claims to be lossless"
    assert off_by(rule, 3, ["random", "near", "random four"], [ONCE]) > 1e-3


@pytest.mark.parametrize("rule", FAULTS[:3], ids=lambda rule: type(rule).__name__)
def test_a_fault_keeps_more_than_any_lossless_rule(rule):
    """So more kept tokens prove nothing."""
    assert kept(round_law(rule, WORLDS["random"], 3, ONCE)) > kept(round_law(Block(), WORLDS["random"], 3, ONCE)) + 0.01


# Traversal verification, over trees.

SHAPES = [[2], [3], [2, 1], [1, 2], [2, 2]]


def off_by_on_trees(rule, widths, siblings, sampling=ONCE, names=("random", "near")):
    tree = Topology.branching(widths)
    return max(
        distance(
            completed(trees.round_law(rule, WORLDS[name], tree, siblings, sampling), WORLDS[name][0], 3, sampling),
            verifiers_own(WORLDS[name][0], 3, sampling),
        )
        for name in names
    )


@pytest.mark.parametrize(
    ("widths", "siblings"),
    [*itertools.product(SHAPES, ["with", "without", "top"]), ([2], "hub"), ([2, 1], "hub")],
)
def test_traversal_is_lossless_over_trees(widths, siblings):
    assert off_by_on_trees(Traversal(), widths, siblings) < 1e-12


def test_traversal_with_zeros_and_warped_laws():
    for name, sampling in itertools.product(["certain verifier", "equal"], [Sampling(0.6, top_k=2), Sampling(0.0)]):
        assert off_by_on_trees(Traversal(), [2, 1], "without", sampling, [name]) < 1e-12
    assert off_by_on_trees(Traversal(), [2, 1], "with", ONCE, ["certain proposer", "disjoint"]) < 1e-12


@pytest.mark.parametrize("siblings", ["with", "without"])
def test_traversal_keeps_more_than_the_walk(siblings):
    """On these trees, as the paper reports for its own. At one depth both are the same."""
    for name in ("random", "near", "random other"):
        one, two = Topology.branching([2]), Topology.branching([2, 1])
        walk, up = (kept(trees.round_law(rule, WORLDS[name], two, siblings, ONCE)) for rule in (Exact(), Traversal()))
        assert up > walk
        walk, up = (kept(trees.round_law(rule, WORLDS[name], one, siblings, ONCE)) for rule in (Exact(), Traversal()))
        assert up == pytest.approx(walk, abs=1e-12)


class ShareNotUpdated(Traversal):
    """Wrong: tests every node with the share that it had at first, as if no child had been refused."""

    def tree_law(self, draft, p):
        law = super().tree_law(draft, p)
        ends = torch.zeros_like(law.accepted)
        q = draft.scored(p).probs
        for row, tree in enumerate(draft.trees):
            share, going = [1.0], 1.0
            for node in range(1, tree.size + 1):
                above, token = tree.parent[node - 1], draft.tokens[row, node - 1]
                ratio = float(p.probs[row, above, token] / q[row, node - 1, token])
                share.append(min(1.0, share[above] * ratio))
            for node in _leaves_first(tree, 0):
                ends[row, node] = going * share[node]
                going *= 1 - share[node]
        law.accepted = ends
        return law


class FromTheRoot(Traversal):
    """Wrong: draws behind a node from the target's plain law."""

    def tree_law(self, draft, p):
        law = super().tree_law(draft, p)
        law.next_token = lambda n: p.probs[torch.arange(len(n)), n]
        return law


def _leaves_first(tree, node):
    return [*(end for child in tree.children[node] for end in _leaves_first(tree, child)), node]


@pytest.mark.parametrize("rule", [ShareNotUpdated(), FromTheRoot()], ids=lambda rule: type(rule).__name__)
def test_wrong_traversals_are_rejected(rule):
    assert rule.lossless_over == OVER_DRAWN
    assert off_by_on_trees(rule, [2, 1], "without") > 1e-2


def test_rows_with_trees_of_different_shape():
    generator = torch.Generator().manual_seed(0)
    shapes = [Topology.branching([2, 1]), Topology.chain(4), Topology.branching([2, 1]), Topology.chain(2)]
    p = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    q = torch.randn(4, 4, 3, generator=generator, dtype=torch.float64)
    tokens = torch.tensor([[0, 1, 2, 0], [2, 0, 1, 2], [1, 0, 0, 2], [1, 1, 0, 0]])

    def law(rows):
        lengths = torch.tensor([shapes[row].size for row in rows])
        draft = Draft(
            tokens[rows], lengths, Scored(q[rows], ONCE), ProposalKind.SAMPLED, topology=[shapes[r] for r in rows]
        )
        return Traversal().tree_law(draft, Scored(p[rows], ONCE))

    together = law([0, 1, 2, 3])
    for row in range(4):
        alone = law([row])
        torch.testing.assert_close(together.accepted[row], alone.accepted[0])
        for node in range(shapes[row].size + 1):
            following = together.next_token(torch.full((4,), node))[row]
            torch.testing.assert_close(following, alone.next_token(torch.tensor([node]))[0])
