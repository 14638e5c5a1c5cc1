"""How drafted tokens hang together: a chain, or a tree of several continuations.

Node 0 is the last decided token. Drafted token i is node i + 1. A node follows its parent, and siblings are alternatives to each
other. A verifier keeps one path from node 0. On a chain, a node's number is the count of kept tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np

from sdbench.errors import InputError

MOST_NODES = 1024  # that a drafter may give a token tree; published trees have up to 64


@dataclass(frozen=True)
class Topology:
    """A tree of N drafted tokens. parent[i]: the node that node i + 1 follows.

    Parents come before their children. Siblings are tried in the order of their numbers.
    """

    parent: tuple[int, ...]

    def __post_init__(self) -> None:
        for index, parent in enumerate(self.parent):
            if not 0 <= parent <= index:
                raise InputError(
                    f"Node {index + 1} of a token tree follows node {parent}; it must be one from 0 to {index}."
                )

    @staticmethod
    def of(parent: Sequence[int]) -> Topology:
        """Return the tree with these parents. Equal trees are one object, which keeps what it has computed."""
        return _made(tuple(parent))

    @staticmethod
    def chain(length: int) -> Topology:
        """Return a chain of `length` tokens."""
        return _made(tuple(range(length)))

    @staticmethod
    def branching(widths: Sequence[int]) -> Topology:
        """Return the tree in which every node of depth d has widths[d] children, level by level.

        Raises: InputError, above `MOST_NODES` tokens.
        """
        nodes = sum(accumulate(widths, mul))
        if nodes > MOST_NODES:
            raise InputError(
                f"A token tree of widths {list(widths)} has {nodes} tokens; the most are {MOST_NODES}: take smaller widths."
            )
        parent: list[int] = []
        level = [0]
        for width in widths:
            above, level = level, []
            for node in above:
                for _ in range(width):
                    parent.append(node)
                    level.append(len(parent))
        return _made(tuple(parent))

    @staticmethod
    def branches(length: int, behind: Sequence[int], depth: int) -> Topology:
        """Return a chain of `length` tokens, and a chain of `depth` more tokens behind its node behind[m], for each branch m.

        The nodes behind the first chain are numbered depth by depth: token d of branch m is node length + d M + m + 1.
        """
        first = length + 1
        return _made((*range(length), *behind, *range(first, first + len(behind) * (depth - 1))))

    @staticmethod
    def from_paths(paths: Iterable[Sequence[int]]) -> Topology:
        """Return the tree of Medusa's `choices`: each path names a node by the ranks of its ancestors and itself, from 0.

        Raises: InputError, if a path begins with one that is not given, or skips a rank.
        """
        known: dict[tuple[int, ...], int] = {(): 0}
        parent: list[int] = []
        for path in sorted(map(tuple, paths), key=lambda path: (len(path), path)):
            if path[:-1] not in known or (path[-1] > 0 and (*path[:-1], path[-1] - 1) not in known):
                raise InputError(
                    f"The path {list(path)} of a token tree needs its parent and its elder siblings before it."
                )
            parent.append(known[path[:-1]])
            known[path] = len(parent)
        return _made(tuple(parent))

    @property
    def size(self) -> int:
        """The number of drafted tokens."""
        return len(self.parent)

    @cached_property
    def depth(self) -> tuple[int, ...]:
        """The depth of each node; node 0 has depth 0."""
        found = [0]
        for parent in self.parent:
            found.append(found[parent] + 1)
        return tuple(found)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of each node, in the order in which they are tried."""
        found: list[list[int]] = [[] for _ in range(self.size + 1)]
        for index, parent in enumerate(self.parent):
            found[parent].append(index + 1)
        return tuple(map(tuple, found))

    @cached_property
    def rank(self) -> tuple[int, ...]:
        """The place of each drafted node among its siblings, from 0. rank[i] is that of node i + 1."""
        places = {child: place for family in self.children for place, child in enumerate(family)}
        return tuple(places[node] for node in range(1, self.size + 1))

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of nodes at each depth from 1 on."""
        deepest = max(self.depth)
        return tuple(self.depth.count(level) for level in range(1, deepest + 1))

    @cached_property
    def ancestors(self) -> np.ndarray:
        """[N, N] whether drafted token j is drafted token i, or comes before it on its path."""
        found = np.eye(self.size, dtype=bool)
        for index, parent in enumerate(self.parent):
            if parent:
                found[index] |= found[parent - 1]
        return found

    def path(self, node: int) -> list[int]:
        """Return the nodes from a child of node 0 to `node`; [] for node 0."""
        found = []
        while node:
            found.append(node)
            node = self.parent[node - 1]
        return found[::-1]


class VerifiedTree(NamedTuple):
    """Tell how a token tree was verified. tokens: of its nodes, from node 1 on. end: the node at which the kept path ends."""

    topology: Topology
    tokens: list[int]
    end: int


@lru_cache(maxsize=256)
def _made(parent: tuple[int, ...]) -> Topology:
    """Return one object for equal trees, so that what it computes is kept."""
    return Topology(parent)
