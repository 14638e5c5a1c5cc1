"""Which chain of levels decodes fastest: the planner of hierarchical speculative decoding (HSD, 2510.19705).

Level j asks the level i below it for n tokens and verifies them in one pass. Let l_i be the seconds per token that level i
delivers. Let c_j(n) be the seconds of a pass over n drafted tokens and the last decided one, and a the acceptance of i's tokens by
j. Then

    l_j = (n l_i + c_j(n)) / E(a, n),      E(a, n) = (1 - a^(n+1)) / (1 - a).

A look-up offers a draft in a share o of the rounds only. In the other rounds level j decodes one token alone:

    l_j = (o (n l_i + c_j(n)) + (1 - o) c_j(0)) / (o E(a, n) + 1 - o).

Both are affine and increasing in l_i. So on levels in the order of their size, the best chain is a shortest path with gains, and
Bellman's recursion is exact:

    best_j = min( c_j(0),  min over i < j and n of l_j(best_i, n) ).

The paper's own formula was not found; this cost model is derived from its description (FA A.1). It assumes independent acceptance,
and a level that delivers exactly the tokens that were asked for. `sdbench tune` takes chains and lengths from it, and predicts
their speed by a replay that assumes neither (`sdbench.simulate.chain_replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

LONGEST = 12  # the most tokens that a level asks of the next one


@dataclass(frozen=True)
class Level:
    """Describe a level. seconds: of a pass over n drafted tokens and the last decided one, n >= 0; with the work around it.

    verifies: whether it can verify the tokens of another level. A look-up cannot: its `seconds(0)` is the time per drafted token.
    """

    name: str
    seconds: Callable[[int], float]
    verifies: bool = True


@dataclass(frozen=True)
class Edge:
    """Describe a pair of levels. acceptance: a. offered: the share of rounds in which the lower level drafts at all."""

    acceptance: float
    offered: float = 1.0

    def tokens(self, length: int) -> float:
        """Return the mean tokens of a round that asks for `length` tokens."""
        powers = self.acceptance ** np.arange(length + 1)
        return self.offered * float(powers.sum()) + 1 - self.offered

    def seconds_per_token(self, below: float, level: Level, length: int) -> float:
        """Return l_j. below: l_i, in seconds. level: the verifier. length: the tokens that it asks for."""
        drafted = self.offered * (length * below + level.seconds(length))
        return (drafted + (1 - self.offered) * level.seconds(0)) / self.tokens(length)


@dataclass(frozen=True)
class Chain:
    """Describe a chain. levels: names, the target first. lengths: the tokens that each level asks of the next one.

    seconds: per token, as predicted. speedup: over the target alone.
    """

    levels: tuple[str, ...]
    lengths: tuple[int, ...]
    seconds: float
    speedup: float


Edges = Mapping[tuple[str, str], Edge]  # by the names of the lower and the upper level


def best_chain(levels: Sequence[Level], edges: Edges, longest: int = LONGEST) -> Chain:
    """Return the fastest chain, by Bellman's recursion in O(levels^2 longest).

    levels: the smallest first, the target last. edges: of the pairs that were measured; other pairs are not used.
    """
    best: dict[str, tuple[float, tuple[str, ...], tuple[int, ...]]] = {}
    for number, level in enumerate(levels):
        options: list[tuple[float, tuple[str, ...], tuple[int, ...]]] = [(level.seconds(0), (level.name,), ())]
        for below in levels[:number] if level.verifies else ():
            edge = edges.get((below.name, level.name))
            if edge is not None:
                seconds, names, lengths = best[below.name]
                length = _best_length(edge, seconds, level, longest)
                spent = edge.seconds_per_token(seconds, level, length)
                options.append((spent, (level.name, *names), (length, *lengths)))
        best[level.name] = min(options)
    seconds, names, lengths = best[levels[-1].name]
    return Chain(names, lengths, seconds, levels[-1].seconds(0) / seconds)


def chains(levels: Sequence[Level], edges: Edges, longest: int = LONGEST) -> list[Chain]:
    """Return every chain that ends at the target, each with its best lengths, the fastest first.

    The arguments are those of `best_chain`. The best lengths of a chain are found from below, because l_j increases in l_i.
    """
    target = levels[-1]
    found = []
    for chosen in _subsets(levels[:-1]):
        path = [*chosen, target]
        if all(level.verifies for level in path[1:]) and all(
            (low.name, high.name) in edges for low, high in pairwise(path)
        ):
            seconds, lengths = path[0].seconds(0), []
            for low, high in pairwise(path):
                edge = edges[low.name, high.name]
                lengths.insert(0, _best_length(edge, seconds, high, longest))
                seconds = edge.seconds_per_token(seconds, high, lengths[0])
            names = tuple(level.name for level in reversed(path))
            found.append(Chain(names, tuple(lengths), seconds, target.seconds(0) / seconds))
    return sorted(found, key=lambda chain: chain.seconds)


def _best_length(edge: Edge, below: float, level: Level, longest: int) -> int:
    """Return the number of tokens that `level` should ask for. below: seconds per token of the level that drafts them."""
    return min(range(1, longest + 1), key=lambda length: edge.seconds_per_token(below, level, length))


def _subsets(levels: Sequence[Level]) -> Iterator[tuple[Level, ...]]:
    for size in range(len(levels) + 1):
        yield from combinations(levels, size)
