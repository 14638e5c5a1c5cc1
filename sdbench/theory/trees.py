"""Which token tree keeps most tokens: Sequoia's planner (2402.12374, section 3.1), from measured acceptance by rank.

Let a[r] be the probability that the child of rank r is the one that is kept, given that the verdict reached its parent. A node
whose path has the ranks r_1, r_2, ... is then kept with probability a[r_1] a[r_2] ..., and a tree keeps the sum of these.
The best tree of n nodes is found by dynamic programming: the child of rank r takes s of the n nodes, and later siblings the rest,

    F(n, d, r) = max over s of  a[r] (1 + F(s - 1, d - 1, 0)) + F(n - s, d, r + 1).

The tree of least seconds per token also needs the time of a verification over n nodes, T_v(n), and of the draft's steps. On greedy
answers, `rounds_of` replays a tree over recorded ranks, which needs no independence of the levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache

Path = tuple[int, ...]  # the ranks of a node's ancestors and of itself
Seconds = Callable[[int], float]  # of a step, by its number of nodes


def best_tree(acceptance: Sequence[float], nodes: int, depth: int) -> tuple[float, list[Path]]:
    """Return the mean number of kept tokens of the best tree, and its nodes as paths.

    acceptance: a, by rank from 0. nodes: the most nodes. depth: the most tokens on a path.
    """
    return planner(acceptance)(nodes, depth)


def planner(acceptance: Sequence[float]) -> Callable[[int, int], tuple[float, list[Path]]]:
    """Return `best_tree` for these acceptances. Its calls share one table."""

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

    return lambda nodes, depth: (best(nodes, depth, 0)[0], paths(nodes, depth, 0, ()))


def drafting_seconds(tree: Collection[Path], draft: Seconds) -> float:
    """Return the seconds that a draft needs for a tree: one step for each depth.

    draft: of a step over so many nodes. The first step reads the last decided token, and each later one a whole depth.
    """
    widths = Counter(map(len, tree))
    return sum(draft(widths.get(level, 1)) for level in range(max(widths, default=0)))


def fastest_tree(
    acceptance: Sequence[float], draft: Seconds, target: Seconds, nodes: int, depth: int
) -> tuple[float, list[Path]]:
    """Return the least seconds per token over all sizes and depths, and the tree that reaches it (Sequoia, section 3.3).

    draft: of a drafting step over so many nodes. target: T_v, of a verification of so many nodes. nodes, depth: the limits.
    """
    best = planner(acceptance)
    found: tuple[float, list[Path]] = target(0), []
    for size in range(1, nodes + 1):
        for deepest in range(1, min(depth, size) + 1):
            kept, tree = best(size, deepest)
            seconds = (drafting_seconds(tree, draft) + target(len(tree))) / (1 + kept)
            if seconds < found[0]:
                found = seconds, tree
    return found


def acceptance_by_rank(strings: Sequence[Sequence[int]], ranks: int) -> list[float]:
    """Return a, the share of tokens that have each rank.

    strings: the ranks, from 1, of the tokens of greedy answers, in the draft's order (`sdbench.simulate.events.places`).
    """
    counts = Counter(int(rank) for string in strings for rank in string)
    total = max(sum(counts.values()), 1)
    return [counts[rank] / total for rank in range(1, ranks + 1)]


def rounds_of(strings: Sequence[Sequence[int]], tree: Collection[Path]) -> int:
    """Return the number of rounds in which a tree decodes greedy answers.

    A round keeps the longest path of the tree whose ranks are those of the answer's next tokens, and one more token.
    """
    known = {()} | set(tree)
    return sum(1 for string in strings for _ in _rounds(string, known))


def _rounds(string: Sequence[int], known: Collection[Path]) -> Iterator[None]:
    at = 0
    while at < len(string):
        kept: Path = ()
        while at + len(kept) < len(string) and (longer := (*kept, int(string[at + len(kept)]) - 1)) in known:
            kept = longer
        at += len(kept) + 1
        yield
