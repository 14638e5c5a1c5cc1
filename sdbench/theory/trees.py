"""Which token tree keeps most tokens: Sequoia's planner (2402.12374, section 3.1), from measured acceptance by rank.

Let a[r] be the probability that the child of rank r is the one that is kept, given that the verdict reached its parent. A node
whose path has the ranks r_1, r_2, ... is then kept with probability a[r_1] a[r_2] ..., and a tree keeps the sum of these.
The best tree of n nodes is found by dynamic programming: the child of rank r takes s of the n nodes, and later siblings the rest,

    F(n, d, r) = max over s of  a[r] (1 + F(s - 1, d - 1, 0)) + F(n - s, d, r + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

Path = tuple[int, ...]  # the ranks of a node's ancestors and of itself


def best_tree(acceptance: Sequence[float], nodes: int, depth: int) -> tuple[float, list[Path]]:
    """Return the mean number of kept tokens of the best tree, and its nodes as paths.

    acceptance: a, by rank from 0. nodes: the most nodes. depth: the most tokens on a path.
    """

    @cache
    def best(count: int, left: int, rank: int) -> tuple[float, int]:
        """Return the kept tokens of `count` nodes below one node, and the share of the child of this rank."""
        if count == 0 or left == 0 or rank == len(acceptance):
            return 0.0, 0
        return max(
            (acceptance[rank] * (1 + best(own - 1, left - 1, 0)[0]) + best(count - own, left, rank + 1)[0], own)
            for own in range(1, count + 1)
        )

    def paths(count: int, left: int, rank: int, above: Path) -> list[Path]:
        own = best(count, left, rank)[1]
        if own == 0:
            return []
        here = (*above, rank)
        return [here, *paths(own - 1, left - 1, 0, here), *paths(count - own, left, rank + 1, above)]

    return best(nodes, depth, 0)[0], paths(nodes, depth, 0, ())


def fastest_tree(
    acceptance: Sequence[float], draft_seconds: float, target_seconds: Callable[[int], float], nodes: int, depth: int
) -> tuple[float, list[Path]]:
    """Return the least seconds per token over all sizes and depths, and the tree that reaches it (Sequoia, section 3.3).

    draft_seconds: of the step that drafts one depth. target_seconds: of a verification of so many nodes. nodes, depth: the limits.
    """
    found: tuple[float, list[Path]] = target_seconds(0), []
    for size in range(1, nodes + 1):
        for deepest in range(1, min(depth, size) + 1):
            kept, tree = best_tree(acceptance, size, deepest)
            seconds = (deepest * draft_seconds + target_seconds(size)) / (1 + kept)
            if seconds < found[0]:
                found = seconds, tree
    return found
