"""The law over nodes, by enumeration (V = 3, depth 2): exact rules are lossless, wrong variants are rejected."""

from __future__ import annotations

import pytest
import torch

from sdbench.acceptance import Draft, Exact, KSeq, Law, Match, ProposalKind, Typical
from sdbench.acceptance.base import residual
from sdbench.acceptance.walk import TokenRule, walk
from sdbench.sampling import Sampling, Scored
from sdbench.topology import Topology

from . import enumeration
from .enumeration import WORLDS, completed, distance, verifiers_own
from .trees import round_law, tokens_per_round

SHAPES = [[1, 1], [2, 1], [3, 1], [2, 2]]
SIBLINGS = ["with", "without", "top"]
ONCE = Sampling(1.0)


def off_by(rule, widths, siblings, sampling=ONCE, names=("random", "near"), order=None):
    """The largest distance of the law of the first three tokens from the verifier's own."""
    tree = Topology.branching(widths)
    return max(
        distance(
            completed(round_law(rule, WORLDS[name], tree, siblings, sampling, order), WORLDS[name][0], 3, sampling),
            verifiers_own(WORLDS[name][0], 3, sampling),
        )
        for name in names
    )


@pytest.mark.parametrize("siblings", SIBLINGS)
@pytest.mark.parametrize("widths", SHAPES)
def test_the_exact_rule_is_lossless_over_trees(widths, siblings):
    assert off_by(Exact(), widths, siblings) < 1e-12


@pytest.mark.parametrize("widths", [[1], [2, 1], [3]])
def test_k_seq_is_lossless_over_independent_siblings(widths):
    names = ["random", "near", "random four", "equal", "disjoint", "certain verifier", "certain proposer"]
    assert off_by(KSeq(), widths, "with", names=names) < 1e-12
    assert off_by(KSeq(3.0), widths, "with", names=names) < 1e-12, "a larger rho keeps less, and stays exact"
    assert off_by(KSeq(), widths, "with", Sampling(0.6, top_k=2)) < 1e-12


def test_k_seq_over_siblings_without_replacement_is_rejected():
    assert off_by(KSeq(), [2], "without", names=["random four", "random other"]) > 1e-3


def test_k_seq_of_one_candidate_is_the_exact_rule():
    tree = Topology.chain(2)
    for world in WORLDS.values():
        one = round_law(KSeq(), world, tree, "with", ONCE)
        assert distance(one, round_law(Exact(), world, tree, "with", ONCE)) < 1e-12


@pytest.mark.parametrize("siblings", SIBLINGS)
def test_the_match_rule_is_lossless_over_trees(siblings):
    assert off_by(Match(), [2, 1], siblings) < 1e-12
    assert off_by(Match(), [3], siblings) < 1e-12


@pytest.mark.parametrize(
    ("name", "siblings"),
    [
        *((name, siblings) for name in ("certain verifier", "equal") for siblings in SIBLINGS),
        ("certain proposer", "with"),  # it has fewer tokens than there are siblings
        ("disjoint", "with"),
    ],
)
def test_worlds_with_zeros_and_warped_laws(name, siblings):
    for sampling in (Sampling(0.6, top_k=2), Sampling(0.0)):
        assert off_by(Exact(), [2, 1], siblings, sampling, [name]) < 1e-12


def test_more_candidates_keep_more_tokens():
    """Siblings without replacement are never tried twice, so they keep more than independent ones."""
    tree = Topology.branching([2])
    chain, independent, without = (
        tokens_per_round(round_law(Exact(), WORLDS["random"], shape, siblings, ONCE))
        for shape, siblings in ((Topology.chain(1), "with"), (tree, "with"), (tree, "without"))
    )
    assert chain < independent < without


@pytest.mark.parametrize("rule", [Exact(), Match(), Typical()], ids=["exact", "match", "typical"])
@pytest.mark.parametrize("sampling", [ONCE, Sampling(0.6, top_k=2), Sampling(0.0)], ids=["1", "warped", "greedy"])
def test_a_chain_is_a_tree_without_siblings(rule, sampling):
    generator = torch.Generator().manual_seed(1)
    p = Scored(torch.randn(5, 4, 3, generator=generator, dtype=torch.float64), sampling)
    q = Scored(torch.randn(5, 3, 3, generator=generator, dtype=torch.float64), sampling)
    tokens = torch.randint(3, (5, 3), generator=generator)
    lengths = torch.tensor([3, 3, 2, 1, 0])
    chain = rule.law(Draft(tokens, lengths, q, ProposalKind.SAMPLED), p)
    tree = rule.tree_law(
        Draft(tokens, lengths, q, ProposalKind.SAMPLED, topology=[Topology.chain(n) for n in lengths.tolist()]), p
    )
    torch.testing.assert_close(tree.accepted, chain.accepted)
    for node in range(4):
        reached = chain.accepted[:, node] > 0
        at = torch.full((5,), node)
        torch.testing.assert_close(tree.next_token(at)[reached], chain.next_token(at)[reached])


class SameLawAgain(Exact):
    """Wrong: after a refusal the verifier's plain law."""

    def test(self, p, q, x, left):
        passes, _ = super().test(p, q, x, left)
        return passes, p.probs


class SiblingsForgotten(Exact):
    """Wrong: each sibling is tested against the plain law, as if it were the only one."""

    def test(self, p, q, x, left):
        passes, _ = super().test(p, q, x, p.probs)
        return passes, residual(left, q.probs)


class LongestPath(TokenRule):
    """Wrong where called lossless: tests every token with the exact rule, and keeps the longest path that passes (as Medusa)."""

    lossless_over = Exact.lossless_over

    def tree_law(self, draft: Draft, p: Scored) -> Law:
        tree, q = draft.trees[0], draft.scored(p).probs
        at_parent = p.probs[:, list(tree.parent)].gather(-1, draft.tokens[..., None])[..., 0]
        chance = (at_parent / q.gather(-1, draft.tokens[..., None])[..., 0]).clamp(max=1)
        accepted = torch.zeros(len(draft.tokens), tree.size + 1, dtype=p.logits.dtype)
        for outcome in range(1 << tree.size):
            passed = torch.tensor([bool(outcome >> i & 1) for i in range(tree.size)])
            alive = [node for node in range(tree.size + 1) if all(passed[i - 1] for i in tree.path(node))]
            end = max(alive, key=lambda node: (tree.depth[node], -node))
            accepted[:, end] += torch.where(passed, chance, 1 - chance).prod(-1)
        return Law(accepted, walk(draft, p, Exact().siblings).next_token)


def by_value(tree):
    """Wrong: hands the siblings over in the order of their values."""

    def order(tokens, laws):
        tokens, laws = list(tokens), list(laws)
        for family in tree.children:
            places = sorted(family, key=lambda node: tokens[node - 1])
            moved = [(tokens[node - 1], laws[node - 1]) for node in places]
            for node, (token, law) in zip(family, moved, strict=True):
                tokens[node - 1], laws[node - 1] = token, law
        return tuple(tokens), laws

    return order


def not_renormalised(tree):
    """Wrong: states the law of the eldest sibling for all of them."""

    def order(tokens, laws):
        eldest = {parent: family[0] for parent, family in enumerate(tree.children) if family}
        return tokens, [laws[eldest[tree.parent[i]] - 1] for i in range(tree.size)]

    return order


@pytest.mark.parametrize("rule", [SameLawAgain(), SiblingsForgotten(), LongestPath()])
def test_wrong_rules_are_rejected(rule):
    assert Exact.lossless_over == rule.lossless_over
    assert off_by(rule, [2, 1], "without") > 1e-2


@pytest.mark.parametrize("wrong", ["siblings by value", "q not renormalised"])
def test_wrong_drafts_are_rejected(wrong):
    tree = Topology.branching([2])
    order = by_value(tree) if wrong == "siblings by value" else not_renormalised(tree)
    assert off_by(Exact(), [2], "without", names=["random four", "random other"], order=order) > 1e-2


def test_rows_with_trees_of_different_shape():
    """Each row's law is that of its own tree."""
    generator = torch.Generator().manual_seed(0)
    trees = [Topology.branching([2, 1]), Topology.branching([1, 3]), Topology.chain(4)]
    logits = torch.randn(3, 5, 3, generator=generator, dtype=torch.float64)
    tokens = torch.tensor([[0, 1, 2, 0], [2, 0, 1, 2], [1, 1, 0, 2]])
    q = Scored(torch.randn(3, 4, 3, generator=generator, dtype=torch.float64), ONCE)

    def law(rows):
        lengths = torch.full((len(rows),), 4)
        draft = Draft(tokens[rows], lengths, q[rows], ProposalKind.SAMPLED, topology=[trees[row] for row in rows])
        return Exact().tree_law(draft, Scored(logits[rows], ONCE))

    together = law([0, 1, 2])
    for row in range(3):
        alone = law([row])
        torch.testing.assert_close(together.accepted[row], alone.accepted[0])
        for node in range(5):
            following = together.next_token(torch.full((3,), node))[row]
            torch.testing.assert_close(following, alone.next_token(torch.tensor([node]))[0])


def test_the_enumeration_of_chains_agrees():
    tree = Topology.chain(2)
    assert (
        distance(
            round_law(Exact(), WORLDS["random"], tree, "with", ONCE),
            enumeration.round_law(Exact(), WORLDS["random"], 2, ONCE),
        )
        < 1e-12
    )
