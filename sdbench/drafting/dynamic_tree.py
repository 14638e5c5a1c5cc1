"""Draft the token tree that a model finds most likely: EAGLE-2's dynamic tree (github SafeAILab/EAGLE), with any model.

The score of a node is the sum of the log-probabilities on its path, at temperature 1. At each depth, the `top_k` best nodes of the
last depth are read, and each gets its `top_k` most likely children. Of all nodes, the `budget` best are verified. A node never
scores more than its parent, so the chosen nodes form a tree.

The tree is a function of the context. So the delta rule applies: the exact rule is lossless over it, whatever its shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sdbench import validate
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.drafting.tree import ModelTree
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel, Lengths, Paths
from sdbench.lm.state import DecodeState
from sdbench.topology import MOST_NODES, Topology

_UNREAD = 1 << 30  # the place of a node that the model has not read


@dataclass
class _Grown:
    """The candidates of one row. Each has a token, a score, a parent (a candidate; -1: the last decided token) and a depth.

    read: the candidates that the model reads, in the order in which it reads them.
    """

    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)

    def extend(self, parent: int, tokens: list[int], gains: list[float]) -> None:
        """Add the children of a candidate."""
        base, depth = (self.scores[parent], self.depths[parent]) if parent >= 0 else (0.0, 0)
        self.tokens += tokens
        self.scores += [base + gain for gain in gains]
        self.parents += [parent] * len(tokens)
        self.depths += [depth + 1] * len(tokens)

    def best(self, count: int, depth: int | None = None) -> list[int]:
        """Return the `count` candidates with the highest scores (of one depth), parents before children."""
        among = [c for c in range(len(self.tokens)) if depth is None or self.depths[c] == depth]
        return sorted(
            sorted(among, key=lambda c: (-self.scores[c], c))[:count],
            key=lambda c: (self.depths[c], -self.scores[c], c),
        )

    def tree(self, chosen: list[int]) -> Topology:
        """Return the tree of some candidates, parents before children."""
        place = {-1: 0, **{candidate: node for node, candidate in enumerate(chosen, start=1)}}
        return Topology.of([place[self.parents[candidate]] for candidate in chosen])


class DynamicTree(ModelTree):
    """Draft a dynamic tree. depth: of the tree. top_k: nodes read at each depth, and children of each. budget: tokens verified.

    EAGLE-2 takes depth 5, top_k 10 and budget 60; a small verifier on a CPU wants far fewer.
    """

    kind = ProposalKind.DETERMINISTIC

    def __init__(self, model: LanguageModel, depth: int = 5, top_k: int = 10, budget: int = 60) -> None:
        self.depth = validate.whole("proposer.depth", depth, 1)
        self.top_k = validate.whole("proposer.top_k", top_k, 1, MOST_NODES)
        self.budget = validate.whole("proposer.budget", budget, 1, MOST_NODES)
        super().__init__(model)
        self._read_places: list[
            dict[int, int]
        ] = []  # by row: the place of a node of the draft among the nodes that were read

    @property
    def own_length(self) -> int | None:
        return self.depth

    def max_lookahead(self, length: int) -> int:
        return max(self.budget, self.top_k * (self.depth - 1))

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        here, rows = state.copy(), [_Grown() for _ in range(state.rows)]
        logits = self.model.read(state, state.length, "draft").logits[:, -1:]
        parents = [[-1] for _ in rows]
        for depth in range(1, self.depth + 1):
            gains, tokens = logits.float().log_softmax(-1).topk(min(self.top_k, logits.shape[-1]), -1)
            for row, families, of_row, gained in zip(rows, parents, tokens.tolist(), gains.tolist(), strict=True):
                for parent, some, gain in zip(families, of_row, gained, strict=True):
                    row.extend(parent, some, gain)
            if depth == self.depth:
                break
            parents = [row.best(self.top_k, depth) for row in rows]
            first = len(rows[0].read) + 1
            for row, chosen in zip(rows, parents, strict=True):
                row.read += chosen
            level = torch.tensor([[row.tokens[c] for c in chosen] for row, chosen in zip(rows, parents, strict=True)])
            here.place_many(level, state.length + first - 1)
            trees = [row.tree(row.read) for row in rows]
            logits = self.model.read_tree(here, trees, (first, len(rows[0].read)), "draft").logits
        return self._draft(rows, state.tokens.device)

    def commit(self, length: Lengths, paths: Paths | None = None) -> None:
        if paths is not None:
            lines = zip(self._read_places, paths, strict=True)
            paths = [[place.get(node, _UNREAD) for node in path] for place, path in lines]
        super().commit(length, paths)

    def _draft(self, rows: list[_Grown], device: torch.device) -> Draft:
        """Choose the best nodes of each row."""
        chosen = [row.best(self.budget) for row in rows]
        self._read_places = []
        for row, nodes in zip(rows, chosen, strict=True):
            read = {candidate: place for place, candidate in enumerate(row.read, start=1)}
            self._read_places.append({i: read[c] for i, c in enumerate(nodes, start=1) if c in read})
        tokens = torch.tensor(
            [[row.tokens[c] for c in nodes] for row, nodes in zip(rows, chosen, strict=True)], device=device
        )
        whole = torch.full((len(rows),), tokens.shape[1], device=device)
        trees = [row.tree(nodes) for row, nodes in zip(rows, chosen, strict=True)]
        return Draft(tokens, whole, None, self.kind, full=True, topology=trees)
