"""Sequoia's planner against brute force."""

from __future__ import annotations

from math import prod

import pytest

from sdbench.theory.trees import best_tree, fastest_tree


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


def test_the_fastest_tree():
    acceptance = [0.6, 0.2]

    def seconds(tree):
        return (max(map(len, tree), default=0) * 0.2 + 1 + 0.1 * len(tree)) / (1 + kept(tree, acceptance))

    least, tree = fastest_tree(acceptance, 0.2, lambda nodes: 1 + 0.1 * nodes, 6, 4)
    assert least == pytest.approx(min(map(seconds, trees(6, 2, 4))))
    assert least == pytest.approx(seconds(tree))


def test_where_drafting_does_not_pay_nothing_is_drafted():
    assert fastest_tree([0.1], 5.0, lambda nodes: 1.0 + nodes, 4, 4) == (1.0, [])
