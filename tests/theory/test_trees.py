"""Sequoia's planner against brute force."""

from __future__ import annotations

from math import prod

import pytest

from sdbench.theory.trees import acceptance_by_rank, best_tree, drafting_seconds, fastest_tree, rounds_of


def trees(nodes, ranks, depth):
    """All trees of at most `nodes` nodes, as sets of paths."""
    found, frontier = {frozenset()}, {frozenset()}
    for _ in range(nodes):
        grown = set()
        for tree in frontier:
            for path in [(), *tree]:
                children = sum(other[:-1] == path for other in tree if len(other) == len(path) + 1)
                if len(path) < depth and children < ranks:
                    grown.add(tree | {(*path, children)})
        found |= grown
        frontier = grown
    return found


def kept(tree, acceptance):
    return sum(prod(acceptance[rank] for rank in path) for path in tree)


ACCEPTANCE = [[0.6, 0.2, 0.05], [0.3, 0.3, 0.2], [0.1, 0.5], [0.9]]


@pytest.mark.parametrize("acceptance", ACCEPTANCE)
@pytest.mark.parametrize(("nodes", "depth"), [(1, 3), (4, 1), (5, 2), (6, 4)])
def test_no_tree_keeps_more(acceptance, nodes, depth):
    value, tree = best_tree(acceptance, nodes, depth)
    assert value == pytest.approx(max(kept(other, acceptance) for other in trees(nodes, len(acceptance), depth)))
    assert value == pytest.approx(kept(tree, acceptance))
    assert len(tree) <= nodes
    assert frozenset(tree) in trees(nodes, len(acceptance), depth), "parents and elder siblings are there"


def draft_step(nodes):
    return 0.2 + 0.05 * nodes


def test_the_time_of_a_draft_counts_each_depth():
    assert drafting_seconds([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)], draft_step) == pytest.approx(
        draft_step(1) + draft_step(2) + draft_step(3)
    )
    assert drafting_seconds([], draft_step) == 0


def test_the_fastest_tree():
    """Among the trees that keep most for their size and depth, which the planner finds."""
    acceptance = [0.6, 0.2]

    def seconds(tree):
        return (drafting_seconds(tree, draft_step) + 1 + 0.1 * len(tree)) / (1 + kept(tree, acceptance))

    least, tree = fastest_tree(acceptance, draft_step, lambda nodes: 1 + 0.1 * nodes, 6, 4)
    best = [best_tree(acceptance, size, depth)[1] for size in range(7) for depth in range(1, 5)]
    assert least == pytest.approx(min(map(seconds, best)))
    assert least == pytest.approx(seconds(tree))
    assert least < fastest_tree(acceptance, draft_step, lambda nodes: 1 + 0.2 * nodes, 6, 4)[0]


def test_where_draft_steps_cost_the_same_no_tree_is_faster():
    acceptance = [0.6, 0.2]

    def seconds(tree):
        return (max(map(len, tree), default=0) * 0.2 + 1 + 0.1 * len(tree)) / (1 + kept(tree, acceptance))

    least, _ = fastest_tree(acceptance, lambda nodes: 0.2, lambda nodes: 1 + 0.1 * nodes, 6, 4)
    assert least == pytest.approx(min(map(seconds, trees(6, 2, 4))))


def test_where_drafting_does_not_pay_nothing_is_drafted():
    assert fastest_tree([0.1], lambda nodes: 5.0, lambda nodes: 1.0 + nodes, 4, 4) == (1.0, [])


def test_the_acceptance_by_rank_of_recorded_ranks():
    assert acceptance_by_rank([[1, 1, 2, 5], [1, 3, 1, 1]], 3) == [5 / 8, 1 / 8, 1 / 8]


@pytest.mark.parametrize(
    ("string", "tree", "rounds"),
    [
        ([1, 1, 1, 1], [], 4),
        ([1, 1, 1, 1], [(0,)], 2),
        ([1, 2, 1, 3], [(0,), (0, 1)], 2),  # (0, 1) and the token behind it, then a refused token of rank 3
        ([2, 1, 1], [(0,), (1,), (1, 0)], 1),
        ([2, 1, 1], [(0,), (0, 0)], 2),
    ],
)
def test_the_rounds_of_a_tree_over_recorded_ranks(string, tree, rounds):
    assert rounds_of([string, []], tree) == rounds
